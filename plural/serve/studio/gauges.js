// The machine at work, out of /metrics.

import { html } from "./vendor/preact.js";
import { Lines } from "./charts.js";
import { lately, rates, state } from "./store.js";

const whole = (value) => Math.round(value).toLocaleString("en");

/** Some numbers that stand in the head of the page. */
export function Pulse() {
  const now = state.readings.at(-1);
  if (!now) return html`<div class="pulse"></div>`;
  return html`<a class="pulse" href="#gauges"
    aria-label="Gauges: ${whole(lately("said"))} tokens a second, ${now.running} running">
    <${Lines} axes=${false} height=${26} label="Tokens a second"
      series=${[{ name: "said", hue: "skill-0", points: rates("said").slice(-40) }]} />
    <span><b>${whole(lately("said"))}</b> tok/s</span><span><b>${now.running + now.waiting}</b> inside</span>
  </a>`;
}

export function Gauges() {
  const { readings } = state;
  const now = readings.at(-1);
  if (!now) return html`<div class="page"><h1>Gauges</h1></div>`;
  const over = (name) => readings.map((one) => [one.at, one[name]]);
  const seconds = Math.round((now.at - readings[0].at) / 1000);
  const across = `last ${seconds} s`;
  const free = now.pages - now.used - now.kept;
  const share = now.prompted ? now.found / now.prompted : 0;
  return html`<div class="page">
    <h1>Gauges</h1>
    <div class="gauges">
      <${Gauge} title="Tokens a second" value=${whole(lately("said"))}
        note="of answers; ${whole(lately("computed"))} computed">
        <${Lines} label="Tokens a second" across=${across} format=${whole}
          series=${[
            { name: "answers", hue: "skill-0", points: rates("said") },
            { name: "computed", hue: "skill-5", points: rates("computed") },
          ]} /></${Gauge}>
      <${Gauge} title="Requests" value=${now.running} note="running, ${now.waiting} waiting, ${now.inside} answers inside">
        <${Lines} label="Requests" across=${across} format=${whole}
          series=${[
            { name: "running", hue: "skill-2", points: over("running"), filled: true },
            { name: "waiting", hue: "skill-1", points: over("waiting") },
          ]} /></${Gauge}>
      <${Gauge} title="Memory" value="${whole((100 * (now.used + now.kept)) / (now.pages || 1))}%"
        note="of ${whole(now.pages)} pages; ${now.adapters} adapters in memory">
        <div class="shares tall" role="img" aria-label="Pages: ${now.used} in use, ${now.kept} kept, ${free} free">
          <i class="skill-4" style=${{ flexGrow: now.used }}></i>
          <i class="skill-5" style=${{ flexGrow: now.kept }}></i><i class="rest" style=${{ flexGrow: free }}></i></div>
        <p class="names"><span class="skill-4"><i class="dot"></i>in use ${whole(now.used)}</span>
          <span class="skill-5"><i class="dot"></i>kept for the next ${whole(now.kept)}</span>
          <span>free ${whole(free)}</span></p>
        <${Lines} label="Pages" across=${across} format=${whole} height=${112}
          series=${[{ name: "in use", hue: "skill-4", points: over("used"), filled: true }]} /></${Gauge}>
      <${Gauge} title="Cache" value="${whole(100 * share)}%" note="of prompt tokens were found, not computed">
        <${Lines} label="Prompt tokens a second" across=${across} format=${whole}
          series=${[
            { name: "read", hue: "skill-3", points: rates("prompted") },
            { name: "found", hue: "skill-2", points: rates("found"), filled: true },
          ]} /></${Gauge}>
    </div>
    <h2>By model</h2>
    <${ByModel} samples=${now.samples} />
    <p class="quiet">${now.refused} refused, ${now.gone} clients left early, since the server started.</p>
  </div>`;
}

const Gauge = ({ title, value, note, children }) =>
  html`<section class="gauge"><h2>${title}</h2><p><b>${value}</b> <small>${note}</small></p>${children}</section>`;

function ByModel({ samples }) {
  const of = (name, model) => samples.find((one) => one.name === name && one.labels.model === model)?.value ?? 0;
  const answered = samples.filter((one) => one.name === "plural_request_seconds_count");
  const models = [...new Set(answered.map((one) => one.labels.model))];
  const counted = samples.filter((one) => one.name === "plural_tokens_total");
  const tokens = (model, kind) =>
    counted.find(({ labels }) => labels.model === model && labels.kind === kind)?.value ?? 0;
  const mean = (name, model) => of(`${name}_sum`, model) / (of(`${name}_count`, model) || 1);
  const ms = (seconds) => (seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`);
  if (!models.length) return html`<p class="quiet">Nobody has been asked yet.</p>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label="By model"><table>
    <thead><tr><th scope="col">Model</th><th scope="col">Answers</th><th scope="col">First token</th>
      <th scope="col">Whole</th><th scope="col">Tokens</th><th scope="col">Cached</th></tr></thead>
    <tbody>${models.map((model) => html`<tr key=${model}><th scope="row">${model}</th>
      <td>${whole(of("plural_request_seconds_count", model))}</td><td>${ms(mean("plural_first_token_seconds", model))}</td>
      <td>${ms(mean("plural_request_seconds", model))}</td><td>${whole(tokens(model, "completion"))}</td>
      <td>${whole((100 * tokens(model, "cached")) / (tokens(model, "prompt") || 1))}%</td></tr>`)}</tbody>
  </table></div>`;
}
