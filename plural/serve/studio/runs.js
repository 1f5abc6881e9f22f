// Runs: what was begun, and one of them as a timeline that is looked at again, answered, cancelled, forked.

import { ApiError } from "./api.js";
import { html, useEffect, useRef, useState } from "./vendor/preact.js";
import { act, isOver, listRuns, rows, shownOf, startRun, watch } from "./running.js";
import { BASE, NETWORK, behind, changed, hueOf, state } from "./store.js";

const LIST = 3000; // milliseconds between two readings of the list
const FASTEST = 30; // milliseconds between two events that are played
const LONGEST = 500;

export function Runs() {
  const id = state.view[1];
  return id ? html`<${Run} key=${id} id=${id} />` : html`<${List} />`;
}

// ---------------------------------------------------------------------------------------------------------- the list
function List() {
  const { list } = state.running;
  useEffect(() => {
    listRuns();
    const again = setInterval(() => !document.hidden && listRuns(), LIST);
    return () => clearInterval(again);
  }, []);
  return html`<div class="page">
    <h1>Runs</h1>
    <p class="lead">A run goes on when this page is closed, and after the server was stopped or killed.</p>
    <${Start} />
    ${list?.length === 0 && html`<p class="quiet">Nothing was begun yet.</p>`}
    <ul class="runs" aria-label="Runs, newest first">${(list ?? []).map((run) => html`<li key=${run.id}>
      <a href="#runs/${run.id}">
        <${Status} run=${run} /><b>${run.title}</b>
        <small>${run.model}${run.with && ` → ${run.with}`}${run.parent && ", forked"}, ${when(run.created_at)}</small>
      </a></li>`)}</ul>
  </div>`;
}

function Start() {
  const [problem, setProblem] = useState("");
  const begin = async (event) => {
    event.preventDefault();
    const { model, input } = event.target.elements;
    if (!input.value.trim()) return;
    try {
      await startRun(model.value, input.value.trim());
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      setProblem(error.message);
    }
  };
  const models = state.models.length ? state.models : [NETWORK];
  return html`<form class="fields" onSubmit=${begin}>
    <label class="wide">What is to be done <input name="input" autocomplete="off" /></label>
    <label>By <select name="model">${models.map((name) => html`<option key=${name}>${name}</option>`)}</select></label>
    <button class="main">Start</button>
    ${problem && html`<p class="error" role="alert">${problem}</p>`}
  </form>`;
}

const Status = ({ run }) => html`<em class="status ${run.status}">${run.status}</em>`;
const when = (seconds) => new Date(seconds * 1000).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" });

// ------------------------------------------------------------------------------------------------------------ one run
function Run({ id }) {
  useEffect(() => {
    const stop = new AbortController();
    watch(id, stop.signal);
    return () => stop.abort();
  }, [id]);
  const { run, events, problem } = state.running;
  const back = html`<p class="back"><a href="#runs">← Runs</a></p>`;
  if (run?.id !== id) return html`<div class="page">${back}<h1>Run</h1></div>`;
  return html`<div class="page run-page">
    ${back}
    <h1>${run.title}</h1>
    <p class="row"><span role="status"><${Status} run=${run} /></span>
      <small>${run.model}${run.with && html`, gone on with by <b>${run.with}</b>`}, ${when(run.created_at)}
        ${run.parent && html`, <a href="#runs/${run.parent}">forked at ${run.forked_at}</a>`}</small>
      <span class="push"></span>
      ${!isOver(run) && html`<button type="button" onClick=${() => act("cancel")}>Cancel</button>`}
      ${["failed", "cancelled", "interrupted"].includes(run.status) &&
        html`<button type="button" class="main" onClick=${() => resumed(id)}>Resume</button>`}</p>
    ${problem && html`<p class="error" role="alert">${problem}</p>`}
    ${run.error && html`<p class="error">${run.error.message}</p>`}
    ${run.questions.map((question) => html`<${Question} key=${question.id} question=${question} />`)}
    ${run.answer !== null && state.running.upto === null && html`<p class="said outcome">${run.answer}</p>`}
    ${events.length > 0 && html`<${Player} events=${events} />`}
    <${Timeline} events=${shownOf(state.running)} from=${events[0]?.at} />
  </div>`;
}

/** What comes next is heard by listening anew. */
async function resumed(id) {
  if (!(await act("resume"))) return;
  location.hash = "#runs";
  setTimeout(() => (location.hash = `#runs/${id}`));
}

const KINDS = {
  approval: "May this call be made?",
  outcome: "Was it done?",
  answer: "You are asked",
};

function Question({ question }) {
  const { id, kind, call } = question;
  const words = useRef(null);
  const given = useRef(null);
  const [wrong, setWrong] = useState("");
  const answer = (said) => act("answer", { question: id, answer: said });
  const approve = () => {
    const text = given.current.value;
    try {
      const changedTo = text === readable(call.arguments) ? undefined : JSON.parse(text);
      setWrong("");
      act("approve", { question: id, arguments: changedTo });
    } catch {
      setWrong("The arguments are no JSON.");
    }
  };
  return html`<section class="question ${hueOf(behind(state.running.run.model, question.agent))}" aria-label=${KINDS[kind]}>
    <h2>${KINDS[kind]}</h2>
    <p><b>${question.agent}</b> ${kind === "approval" ? html`wants to call <code>${call.name}</code> with` : ""}</p>
    ${kind !== "approval" && html`<p class="asked" tabindex="0" role="region"
      aria-label="What is asked">${question.text}</p>`}
    ${kind === "approval" && html`<label>Arguments
      <textarea ref=${given} rows=${Math.min(8, readable(call.arguments).split("\n").length)} spellcheck="false"
        defaultValue=${readable(call.arguments)}></textarea></label>`}
    <label>${{ approval: "Reason, if you deny", outcome: "What it returned", answer: "Your answer" }[kind]}
      <input ref=${words} autocomplete="off"
        onKeyDown=${(event) => event.key === "Enter" && kind === "answer" && answer(words.current.value)} /></label>
    ${wrong && html`<p class="error" role="alert">${wrong}</p>`}
    <p class="row">
      ${kind === "approval" && html`<button type="button" class="main" onClick=${approve}>Approve</button>
        <button type="button" onClick=${() => act("deny", { question: id, reason: words.current.value })}>Deny</button>`}
      ${kind === "answer" && html`<button type="button" class="main"
        onClick=${() => answer(words.current.value)}>Answer</button>`}
      ${kind === "outcome" && html`<button type="button" class="main"
          onClick=${() => answer(words.current.value.trim() || "done")}>It was done</button>
        <button type="button" onClick=${() => answer("repeat")}>Do it again</button>`}
    </p>
  </section>`;
}

const readable = (given) => JSON.stringify(given, null, 1);

// -------------------------------------------------------------------------------------------------------- the timeline
/** The run as far as the slider is; from there it can be forked. */
function Player({ events }) {
  const all = events.length;
  const upto = state.running.upto ?? all;
  const [playing, setPlaying] = useState(false);
  const move = (to) => {
    state.running.upto = to >= all ? null : to;
    changed();
  };
  useEffect(() => {
    if (!playing) return undefined;
    if (upto >= all) return void setPlaying(false);
    const pause = (events[upto].at - events[upto - 1].at) * 1000;
    const next = setTimeout(() => move(upto + 1), Math.min(LONGEST, Math.max(FASTEST, pause)));
    return () => clearTimeout(next);
  }, [playing, upto, all]);
  const play = () => {
    if (!playing && upto >= all) move(1);
    setPlaying(!playing);
  };
  const event = events[upto - 1];
  const time = `${(event.at - events[0].at).toFixed(2)} s`;
  return html`<div class="player">
    <div class="slider">
      <button type="button" onClick=${play} aria-label=${playing ? "Pause" : "Play"}>${playing ? "❚❚" : "►"}</button>
      <input type="range" min="1" max=${all} value=${upto} aria-label="Look again"
        aria-valuetext="${upto} of ${all}: ${event.event} at ${time}"
        onInput=${(input) => (setPlaying(false), move(Number(input.target.value)))} />
      <output>${event.event} <small>${time}</small></output>
    </div>
    <${Fork} at=${event.seq} />
  </div>`;
}

function Fork({ at }) {
  const who = useRef(null);
  const fork = async () => {
    const speaker = who.current.value;
    const { run } = state.running;
    const made = await act("fork", { at, ...(speaker && { with: speaker }) });
    if (!made) return;
    state.running.run = run;
    location.hash = `#runs/${made.id}`;
  };
  const names = [BASE, ...(state.cards ?? []).filter((card) => card.kind === "skill").map((card) => card.name)];
  return html`<p class="row fork"><span>From event ${at} on, let</span>
    <select ref=${who} aria-label="Who goes on"><option value="">the same</option>
      ${names.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}</select>
    <span>go on</span><button type="button" onClick=${fork}>Fork</button></p>`;
}

function Timeline({ events, from }) {
  const newest = useRef(null);
  const list = rows(events);
  useEffect(() => {
    if (state.running.upto !== null) newest.current?.scrollIntoView({ block: "nearest" });
  }, [list.length]);
  return html`<ol class="timeline" aria-label="Timeline">${list.map((event, index) => html`<li
    key=${event.seq} class="${hueOf(behind(state.running.run.model, whoIn(event)))} ${event.event}" ref=${index === list.length - 1 ? newest : null}>
    <span class="at">${(event.at - from).toFixed(2)}</span><i class="dot"></i>
    <div><b>${whoIn(event)}</b> <small>${event.with ? "from here on" : (NAMES[event.event] ?? event.event)}</small>
      <${Told} event=${event} /></div>
  </li>`)}</ol>`;
}

const whoIn = (event) => event.agent ?? event.by ?? (event.event === "Routed" ? event.decision.value : "");

const NAMES = {
  RunStarted: "begun", Resumed: "gone on with", Routed: "was chosen", Planned: "the plan", Decided: "decided",
  StepStarted: "begins", TextDelta: "says", ToolCalled: "calls", ToolReturned: "gets", StepFinished: "is done",
  Question: "asks a person", Answered: "a person answered", RunFinished: "finished", RunFailed: "failed",
  Cancelled: "cancelled", LimitReached: "reached a limit", HandedOff: "hands over",
};

function Told({ event }) {
  const { call } = event;
  switch (event.event) {
    case "RunStarted":
      return html`<p>by ${event.with ?? event.model}</p>`;
    case "Routed":
      return html`<p class="names">${event.decision.options.slice(0, 4).map(({ value, probability }) =>
        html`<span key=${value} class=${hueOf(value)}><i class="dot"></i>${value} ${probability.toFixed(2)}</span>`)}</p>`;
    case "Planned":
      return html`<ol class="plan">${event.steps.map((step, index) => html`<li key=${index}>${step.task}</li>`)}</ol>`;
    case "ToolCalled":
      return html`<p class="call"><code>${call.name}(${argued(call.arguments)})</code></p>`;
    case "ToolReturned":
      return html`<p class="call ${event.failed ? "failed" : ""}"><span class="gets">${event.result}</span></p>`;
    default: {
      const text = event.text ?? event.task ?? event.answer ?? event.message ?? event.why ?? shown(event.decision?.value);
      return text ? html`<p class=${event.event === "StepStarted" ? "task" : "text"}>${text}</p>` : null;
    }
  }
}

const shown = (value) => (value === undefined || typeof value === "string" ? value : JSON.stringify(value));
const argued = (given) => Object.entries(given).map(([name, value]) => `${name}=${JSON.stringify(value)}`).join(", ");
