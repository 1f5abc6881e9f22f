// A question, its answers as they come in, and what the events of a run add up to.

import { stream } from "./api.js";
import { isOver, shownOf } from "./running.js";
import { BASE, NETWORK, changed, readGauges, state } from "./store.js";

/** An answer under way. `events` are the run's, each with the milliseconds since it was asked in `at`. */
const begun = (model) => ({
  model, text: "", events: [], started: performance.now(), first: null, ended: null, usage: null, error: "",
  stop: new AbortController(),
});

/** Asks a model, and the base beside it. A turn is {prompt, answers}, the base's answer last. */
export function ask(model, prompt, beside) {
  const models = beside && model !== BASE ? [model, BASE] : [model];
  const turn = { prompt, answers: models.map(begun) };
  const earlier = state.turns;
  state.turns = [...earlier, turn];
  state.replay = null;
  for (const answer of turn.answers) listen(answer, [...said(earlier, answer.model), { role: "user", content: prompt }]);
  changed();
}

export const stop = (turn) => turn.answers.forEach((answer) => answer.stop.abort());
export const isOpen = (answer) => answer.ended === null;

/** The conversation so far. A specialist reads only what it is asked, as in the network. */
function said(turns, model) {
  if (model !== NETWORK && model !== BASE) return [];
  return turns.flatMap(({ prompt, answers }) => {
    const mine = answers.find((answer) => answer.model === model && answer.text && !answer.error);
    return mine ? [{ role: "user", content: prompt }, { role: "assistant", content: mine.text }] : [];
  });
}

async function listen(answer, messages) {
  const { model, started } = answer;
  const json = { model, messages, stream: true, stream_options: { include_usage: true } };
  if (model === NETWORK) json.events = true;
  try {
    for await (const chunk of stream("/v1/chat/completions", { json, signal: answer.stop.signal })) {
      const at = performance.now() - started;
      if (chunk.error) answer.error = chunk.error.message;
      if (chunk.plural) answer.events.push({ at, ...chunk.plural });
      if (chunk.usage) answer.usage = chunk.usage;
      const text = chunk.choices?.[0]?.delta.content;
      if (text) {
        answer.first ??= at;
        answer.text += text;
      }
      changed();
    }
  } catch (error) {
    answer.error = error.name === "AbortError" ? "Stopped." : error.message;
    if (error.status === 401) state.locked = true;
  }
  answer.ended = performance.now() - started;
  changed();
  readGauges({ quiet: true });
}

/** What a run has come to after these events: {route, plan, steps, finished}. */
export function fold(events) {
  const run = { route: null, plan: null, steps: [], finished: null };
  const stepOf = (number) => {
    let step = run.steps.find((one) => one.step === number);
    if (!step) {
      step = { step: number, agent: "", task: "", route: null, text: "", calls: [], status: "waiting", ended: null };
      run.steps.push(step);
      run.steps.sort((one, other) => one.step - other.step);
    }
    return step;
  };
  const tell = {
    Routed: (event) => {
      if (event.step === 0) return void (run.route = event);
      Object.assign(stepOf(event.step), { route: event, agent: event.decision.value, task: event.task });
    },
    Planned: (event) => void (run.plan = event),
    StepStarted: (event) =>
      Object.assign(stepOf(event.step), { agent: event.agent, task: event.task, status: "working" }),
    TextDelta: (event) => {
      const step = stepOf(event.step);
      step.text += event.text;
      step.status = "speaking";
    },
    ToolCalled: (event) => {
      const step = stepOf(event.step);
      Object.assign(step, { text: "", status: "calling" });
      step.calls.push({ ...event.call, result: null, failed: false });
    },
    ToolReturned: (event) => {
      const step = stepOf(event.step);
      step.status = "working";
      const made = step.calls.find((one) => one.id === event.call.id && one.result === null);
      Object.assign(made ?? {}, { result: event.result, failed: event.failed });
    },
    Question: (event) => Object.assign(stepOf(event.step), { agent: event.agent, status: "asking" }),
    StepFinished: (event) =>
      Object.assign(stepOf(event.step), { agent: event.agent, ended: event, status: event.failed ? "failed" : "done" }),
    RunFinished: (event) => void (run.finished = event),
  };
  for (const event of events) tell[event.event]?.(event);
  return run;
}

/** What the picture shows of the newest question, or of the run that is looked at again: who is lit and how, how
 *  probable each one was, and who works for whom. */
export function lights() {
  const { replay, running, view } = state;
  const answers = replay ? [replay.answer] : (state.turns.at(-1)?.answers ?? []);
  const shown = { lit: new Map(), shares: new Map(), links: [], steps: new Map(), tools: new Set() };
  if (view[0] === "runs") {
    if (running.run && view[1]) show(fold(shownOf(running)), !isOver(running.run) || running.upto !== null, shown);
    return shown;
  }
  for (const answer of answers) {
    if (answer.model !== NETWORK) {
      shown.lit.set(answer.model, isOpen(answer) ? (answer.text ? "speaking" : "working") : "done");
      continue;
    }
    const run = fold(replay ? answer.events.slice(0, replay.upto) : answer.events);
    show(run, isOpen(answer) || Boolean(replay), shown);
  }
  return shown;
}

function show(run, open, { lit, shares, links, steps, tools }) {
  const planner = run.plan && run.route ? run.route.decision.value : null;
  for (const { value, probability } of run.route?.decision.options ?? []) shares.set(value, probability);
  if (run.route && !run.steps.length && !run.finished) lit.set(run.route.decision.value, "working");
  if (planner) lit.set(planner, "done");
  for (const step of run.steps) {
    if (!step.agent) continue;
    const now = lit.get(step.agent);
    if (step.status !== "waiting" && (!now || now === "done")) lit.set(step.agent, step.status);
    if (run.plan) steps.set(step.agent, [...(steps.get(step.agent) ?? []), step.step]);
    for (const one of step.calls) if (one.result === null && open) tools.add(one.name);
  }
  run.plan?.steps.forEach(({ after }, index) => {
    const to = run.steps.find((step) => step.step === index + 1);
    for (const earlier of after) {
      const from = run.steps.find((step) => step.step === earlier);
      if (from?.agent && to?.agent && from.agent !== to.agent)
        links.push({ from: from.agent, to: to.agent, given: from.status === "done" });
    }
  });
}

/** Names that can be asked: the network, the base, the specialists that answer by themselves, the teams. */
export const askable = () =>
  [NETWORK, BASE, ...(state.cards ?? []).map((card) => card.name), ...state.teams.map((team) => team.id)];

