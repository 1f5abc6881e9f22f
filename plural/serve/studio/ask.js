// The view where the network is asked, and where one sees how an answer comes about.

import { html, useEffect, useRef } from "./vendor/preact.js";
import { ask, fold, isOpen, stop } from "./asking.js";
import { BASE, NETWORK, behind, cardOf, changed, hueOf, state } from "./store.js";

// What specialists of the starter library can be asked, while they are there.
const TRY = {
  home: "Turn off the lights in the kitchen",
  cron: "every weekday at 7:30 in the morning",
  toolcall: "How many days are there between 2026-01-01 and 2026-03-01?",
  planner: "When will a job that runs every weekday at 7:30 in the morning run next?",
};

export function Ask() {
  const end = useRef(null);
  const grown = state.turns.flatMap((turn) => turn.answers.map((one) => one.text.length + one.events.length)).join();
  useEffect(() => {
    if (state.turns.length && !state.replay) end.current.scrollIntoView({ block: "nearest" });
  }, [grown]);
  return html`<div class="asking">
    <div class="turns">
      <h1 class="${state.turns.length ? "unseen" : ""}">Ask the network</h1>
      ${state.turns.length === 0 && html`<${Welcome} />`}
      ${state.turns.map((turn, index) => html`<${Turn} key=${index} turn=${turn}
        last=${index === state.turns.length - 1} />`)}
      <div ref=${end}></div>
    </div>
    <${Composer} />
  </div>`;
}

function Welcome() {
  const tried = Object.entries(TRY).filter(([name]) => cardOf(name));
  return html`<p class="lead">
      The router chooses who answers; a request of several parts gets a plan. Watch them work in the picture.
    </p>
    <ul class="tries">${tried.map(([name, prompt]) => html`<li key=${name}>
      <button type="button" class=${hueOf(name)} onClick=${() => ask(NETWORK, prompt, state.draft.beside)}>
        <i class="dot"></i>${prompt}</button>
    </li>`)}</ul>`;
}

function Composer() {
  const { draft } = state;
  const open = state.turns.at(-1)?.answers.some(isOpen);
  const box = useRef(null);
  useEffect(() => box.current.focus({ preventScroll: true }), []);
  const edit = (change) => (Object.assign(draft, change), changed());
  const send = (event) => {
    event.preventDefault();
    const prompt = draft.text.trim();
    if (!prompt || open) return;
    ask(draft.model, prompt, draft.beside);
    edit({ text: "" });
  };
  const onKey = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && send(event);
  return html`<form class="composer" onSubmit=${send}>
    <label class="unseen" for="prompt">What you want</label>
    <textarea id="prompt" rows="2" ref=${box} placeholder="Say what you want" value=${draft.text}
      onInput=${(event) => edit({ text: event.target.value })} onKeyDown=${onKey}></textarea>
    <div class="row">
      <label>Ask <select value=${draft.model} onChange=${(event) => edit({ model: event.target.value })}>
        ${(state.models.length ? state.models : [NETWORK]).map((name) => html`<option key=${name} value=${name}
          selected=${name === draft.model}>${name}</option>`)}
      </select></label>
      <label class="check"><input type="checkbox" checked=${draft.beside} disabled=${draft.model === BASE}
        onChange=${(event) => edit({ beside: event.target.checked })} /> beside the base</label>
      <span class="push"></span>
      ${state.turns.length > 0 && !open && html`<button type="button" class="plain" aria-label="New conversation"
        onClick=${() => (Object.assign(state, { turns: [], replay: null }), changed())}>New</button>`}
      ${open
        ? html`<button type="button" class="main" onClick=${() => stop(state.turns.at(-1))}>Stop</button>`
        : html`<button class="main" disabled=${!draft.text.trim()}>Ask</button>`}
    </div>
  </form>`;
}

function Turn({ turn, last }) {
  return html`<article class="turn">
    <p class="prompt">${turn.prompt}</p>
    <div class="answers ${turn.answers.length > 1 ? "two" : ""}">
      ${turn.answers.map((answer) => html`<${Answer} key=${answer.model} answer=${answer} last=${last} />`)}
    </div>
  </article>`;
}

function Answer({ answer, last }) {
  const { replay } = state;
  const again = replay?.answer === answer;
  const events = again ? answer.events.slice(0, replay.upto) : answer.events;
  const run = fold(events);
  const text = again && !run.finished ? "" : answer.text;
  return html`<section class="answer ${hueOf(answer.model)}" aria-label="Answer of ${answer.model}"
    aria-busy=${isOpen(answer)}>
    <header><i class="dot"></i><b>${answer.model}</b><${Cost} answer=${answer} /></header>
    ${events.length > 0 && html`<${Run} run=${run} model=${answer.model} />`}
    ${text && html`<p class="said" aria-live=${last ? "polite" : "off"}>
      ${text}${isOpen(answer) && html`<i class="caret"></i>`}</p>`}
    ${!text && isOpen(answer) && !events.length && html`<p class="said waiting"><i class="caret"></i></p>`}
    ${answer.error && html`<p class="error" role="alert">${answer.error}</p>`}
    ${!isOpen(answer) && answer.events.length > 0 && html`<${Slider} answer=${answer} />`}
  </section>`;
}

function Cost({ answer }) {
  const { usage, first, ended } = answer;
  if (!usage || !ended) return null;
  const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
  const share = usage.prompt_tokens ? cached / usage.prompt_tokens : 0;
  const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
  return html`<small class="cost">
    ${first !== null && html`<span title="Until the first token">${seconds(first)}</span>`}
    <span title="In all">${seconds(ended)}</span>
    <span>${usage.completion_tokens} tokens</span>
    <span class="cached" title="Tokens of prompts that were found in the cache">
      <meter min="0" max="1" value=${share} aria-label="Share of the prompt found in the cache"></meter>
      ${cached} of ${usage.prompt_tokens} cached</span>
  </small>`;
}

// --------------------------------------------------------------------------------------------------------------- a run
/** Of a plan and of a team one sees who did what; of one who answers alone no more than the answer shows, but calls. */
function Run({ run, model }) {
  const several = Boolean(run.plan) || (!run.route && run.steps.some((step) => step.agent !== model));
  const shown = several || run.steps.some((step) => step.calls.length);
  return html`<div class="run">
    ${run.route && html`<${Route} ...${run.route} />`}
    ${run.plan && html`<ol class="plan" aria-label="The plan">${run.plan.steps.map((step, index) =>
      html`<li key=${index}>${step.task}</li>`)}</ol>`}
    ${shown && run.steps.filter((step) => step.agent).map((step) =>
      html`<${Step} key=${step.step} step=${step} several=${several} hue=${hueOf(behind(model, step.agent))} />`)}
  </div>`;
}

/** How probable the router thought each one, as a bar that they share. */
function Route({ decision }) {
  const likely = decision.options.filter((option) => option.probability >= 0.005);
  return html`<div class="route">
    <div class="shares" role="img"
      aria-label="The router: ${likely.map((option) => `${option.value} ${option.probability.toFixed(2)}`).join(", ")}">
      ${likely.map(({ value, probability }) => html`<i key=${value} class=${hueOf(value)}
        style=${{ flexGrow: probability }}></i>`)}
    </div>
    <p class="names" aria-hidden="true">${likely.slice(0, 4).map(({ value, probability }) =>
      html`<span key=${value} class=${hueOf(value)}><i class="dot"></i>
      ${value} ${probability.toFixed(2)}</span>`)}</p>
  </div>`;
}

function Step({ step, several, hue }) {
  const { agent, task, status, calls, ended } = step;
  const said = ended?.to ? `${ended.to}, go on: ${ended.task}` : (ended?.answer ?? step.text);
  return html`<div class="step ${hue} ${status}">
    <header><i class="dot"></i>${several && html`<b>${step.step}</b> `}<b>${agent}</b>
      <small>${status === "done" ? `${ended.usage.completion} tokens, ${ended.seconds.toFixed(1)} s` : status}</small>
        </header>
    ${several && html`<p class="task">${task}</p>`}
    ${calls.map((one) => html`<p class="call ${one.failed ? "failed" : ""}" key=${one.id}><code>
      ${one.name}(${argued(one.arguments)})</code>
      ${one.result !== null && html`<span class="gets"> → ${one.result}</span>`}</p>`)}
    ${several && said && html`<p class="text">${said}</p>`}
  </div>`;
}

const argued = (given) => Object.entries(given).map(([name, value]) => `${name}=${JSON.stringify(value)}`).join(", ");

/** The run once more, as far as the slider is; the picture follows. */
function Slider({ answer }) {
  const all = answer.events.length;
  const mine = state.replay?.answer === answer;
  const upto = mine ? state.replay.upto : all;
  const move = (to) => {
    state.replay = to === all ? null : { answer, upto: to };
    changed();
  };
  const event = answer.events[Math.max(0, upto - 1)];
  const said = `${upto} of ${all}: ${event.event} at ${(event.at / 1000).toFixed(2)} s`;
  return html`<label class="slider"><span>Look again</span>
    <input type="range" min="1" max=${all} value=${upto} aria-valuetext=${said}
      onInput=${(input) => move(Number(input.target.value))} />
    <output>${event.event} <small>${(event.at / 1000).toFixed(2)} s</small></output>
  </label>`;
}
