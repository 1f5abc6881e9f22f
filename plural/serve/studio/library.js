// The library: who is there, what each one is for, how good it is, which versions lie beside it.

import { ApiError, call } from "./api.js";
import { html, useEffect, useState } from "./vendor/preact.js";
import { Intervals } from "./charts.js";
import { BASE, cardOf, changed, hueOf, refresh, state } from "./store.js";

export function Library() {
  const name = state.view[1];
  if (name === BASE) return html`<${Base} />`;
  if (name) return html`<${Card} key=${name} name=${name} />`;
  const cards = state.cards ?? [];
  return html`<div class="page">
    <h1>Library</h1>
    ${cards.length === 0 && html`<p class="lead">
      No specialist yet. <a href="#train">Train one</a> from a file of examples.</p>`}
    <ul class="shelf">${cards.map((card) => html`<li key=${card.name} class=${hueOf(card.name)}>
      <a href="#library/${card.name}">
        <header><i class="dot"></i><b>${card.name}</b><small>
          ${card.kind === "planner" ? "plans" : card.tools.length ? "calls tools" : ""}</small></header>
        <p>${card.purpose}</p>
        ${card.scores.specialist && html`<${Intervals} label="Scores of ${card.name}" rows=${best(card)} />`}
      </a>
    </li>`)}</ul>
  </div>`;
}

/** The first score of each kind: of the held-out rows that the specialist carries. */
const best = (card) =>
  [["specialist", card.name, hueOf(card.name)], ["base", "base", "base"]].flatMap(([kind, name, hue]) => {
    const score = card.scores[kind]?.find((one) => !one.on);
    return score ? [{ name, hue, ...score, note: `of ${score.n}` }] : [];
  });

/** Every score there is. `by` says how the rows were asked, `on` which rows they were. */
const everyScore = (card) =>
  Object.entries(card.scores).flatMap(([kind, scores]) =>
    scores.map((score) => ({
      name: [kind === "specialist" ? card.name : kind, score.by, score.on && `on ${score.on}`].filter(Boolean).join(", "),
      hue: kind === "base" ? "base" : hueOf(card.name),
      ...score,
      note: `${score.metric}, ${score.n} rows`,
    })),
  );

function Base() {
  const { base } = state;
  if (!base) return null;
  return html`<div class="page">
    <${Back} />
    <h1>base</h1>
    <p class="lead">${base.root}: the one frozen model under all specialists.</p>
    <dl><dt>Context</dt><dd>${base.max_model_len.toLocaleString("en")} tokens</dd><dt>Digest</dt><dd><code>
      ${base.digest}</code></dd></dl>
    <${AskIt} name=${BASE} beside=${false} />
  </div>`;
}

const Back = () => html`<p class="back"><a href="#library">← Library</a></p>`;

function AskIt({ name, beside }) {
  const go = () => {
    Object.assign(state.draft, { model: name, beside });
    location.hash = "#ask";
  };
  return html`<button type="button" class="main" onClick=${go}>Ask ${name}${beside ? " beside the base" : ""}</button>`;
}

function Card({ name }) {
  const [card, setCard] = useState(cardOf(name));
  const [problem, setProblem] = useState("");
  const read = () =>
    call(`/v1/library/${encodeURIComponent(name)}`).then(
      (found) => (setCard(found), setProblem("")),
      (error) => setProblem(error.message),
    );
  useEffect(() => void read(), [name]);
  if (!card) return html`<div class="page"><${Back} /><p class="error" role="alert">${problem}</p></div>`;
  const scores = everyScore(card);
  return html`<div class="page ${hueOf(name)}">
    <${Back} />
    <h1><i class="dot"></i>${name}</h1>
    <p class="lead">${card.purpose}</p>
    <${AskIt} name=${name} beside=${true} />
    ${problem && html`<p class="error" role="alert">${problem}</p>`}
    ${scores.length > 0 && html`<h2>Scorecard</h2><${Intervals} label="Scorecard of ${name}" rows=${scores} />
      ${card.differences.map((one) => html`<p class="difference" key=${one.what + one.on}>
        ${one.what}${one.on && ` on ${one.on}`}: <b>
        ${signed(one.value)}</b> <small>95% interval ${signed(one.low)} to ${signed(one.high)}, ${one.n} rows</small>
        </p>`)}`}
    ${card.versions && html`<${Versions} card=${card} again=${() => read().then(refresh)} />`}
    <h2>Card</h2>
    <dl>
      ${card.instructions && html`<dt>Instructions</dt><dd>${card.instructions}</dd>`}
      ${card.tools.length > 0 && html`<dt>Tools</dt><dd>${card.tools.map((tool) =>
        html`<code class="chip" key=${tool}>${tool}</code> `)}</dd>`}
      ${card.output && html`<dt>Contract</dt><dd><details><summary>${CONTRACTS[card.output.kind]}</summary>
        <pre tabindex="0">${readable(card.output)}</pre></details></dd>`}
      ${card.lineage && html`<dt>Trained</dt>
        <dd>on ${card.lineage.rows.toLocaleString("en")} rows in ${lasting(card.lineage.seconds)}, by <code>
        ${card.lineage.command}</code></dd>`}
      <dt>Base</dt><dd>${card.base_name}</dd>
      <dt>Made</dt><dd>${day(card.created)}</dd>
      <dt>Licence</dt><dd>${card.licence}</dd>
      <dt>Digest</dt><dd><code>${card.digest}</code></dd>
    </dl>
  </div>`;
}

const CONTRACTS = { json_schema: "JSON of a schema", regex: "text of a pattern", choices: "one of a few answers" };
const day = (iso) => new Date(iso).toLocaleDateString("en", { dateStyle: "medium" });
const lasting = (seconds) => (seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`);
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
const readable = ({ kind, source }) => (kind === "regex" ? source : JSON.stringify(JSON.parse(source), null, 1));

/** `again` reads the card anew. To change what a name stands for needs a key that may administer. */
function Versions({ card, again }) {
  const [doing, setDoing] = useState("");
  const [told, setTold] = useState("");
  const all = [card, ...card.versions];
  const act = async (what, path, json) => {
    setDoing(what);
    setTold("");
    try {
      const made = await call(path, { method: "POST", json });
      setTold((made.told ?? []).join(" ") || "Done.");
      await again();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      setTold(error.message);
    }
    setDoing("");
    changed();
  };
  const path = `/v1/library/${card.name}`;
  return html`<h2>Versions</h2>
    <ul class="versions">${all.map((one) => html`<li key=${one.digest}>
      <b>${one.name}@${one.version}</b> <small>${day(one.created)}</small>
      ${one.scores.specialist?.[0] && html`<span>${one.scores.specialist[0].value.toFixed(2)}</span>`}
      <span class="push"></span>
      ${one === card
        ? html`<em>answers now</em>`
        : html`<button type="button" disabled=${Boolean(doing)}
          onClick=${() => act("publish", `${path}/publish`, { version: one.version })}>Publish, if not worse</button>`}
    </li>`)}</ul>
    <p class="row">
      <button type="button" disabled=${Boolean(doing) || all.length < 2}
        onClick=${() => act("roll back", `${path}/rollback`)}>Roll back</button>
      <button type="button" disabled=${Boolean(doing)} onClick=${() => act("pin", `${path}/pin`)}>Keep in memory</button>
      <span role="status">${doing ? `Working: ${doing} …` : told}</span>
    </p>`;
}
