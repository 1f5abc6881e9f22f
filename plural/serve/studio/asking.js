// A question, its answers as they come in, and what the events of a run add up to.

import { stream } from "./api.js";
import { isOver, shownOf } from "./running.js";
import { BASE, NETWORK, behind, changed, readGauges, state } from "./store.js";

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
  const json = { model, messages, stream: true, stream_options: { include_usage: true }, events: true };
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
    HandedOff: (event) => Object.assign(stepOf(event.step), { agent: event.agent, ended: event, status: "done" }),
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
  const shown = {
    lit: new Map(), shares: new Map(), links: [], steps: new Map(), tools: new Map(), found: new Map(),
  };
  if (view[0] === "runs") {
    const { run } = running;
    if (run && view[1]) show(fold(shownOf(running)), !isOver(run) || running.upto !== null, shown, run.model);
    return shown;
  }
  for (const answer of answers) {
    const { model, events, usage } = answer;
    if (!events.length && model !== NETWORK) {
      shown.lit.set(model, isOpen(answer) ? (answer.text ? "speaking" : "working") : "done");
      if (usage) find(shown, model, usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens);
      continue;
    }
    show(fold(replay ? events.slice(0, replay.upto) : events), isOpen(answer) || Boolean(replay), shown, model);
  }
  return shown;
}

/** How many tokens of prompts somebody has read, and how many of them lay in the cache; the base read all of them. */
function find({ found }, name, prompt, cached) {
  for (const who of new Set([name, BASE])) {
    const before = found.get(who) ?? { prompt: 0, cached: 0 };
    found.set(who, { prompt: before.prompt + prompt, cached: before.cached + cached });
  }
}

function show(run, open, shown, model) {
  const { lit, shares, links, steps, tools } = shown;
  const planner = run.plan && run.route ? run.route.decision.value : null;
  for (const { value, probability } of run.route?.decision.options ?? []) shares.set(value, probability);
  if (run.route && !run.steps.length && !run.finished) lit.set(run.route.decision.value, "working");
  if (planner) lit.set(planner, "done");
  for (const step of run.steps) {
    if (!step.agent) continue;
    const who = behind(model, step.agent);
    const now = lit.get(who);
    const status = open || step.ended ? step.status : "failed"; // in its midst, and nothing more will come
    if (step.status !== "waiting" && (!now || now === "done")) lit.set(who, status);
    if (run.plan || !run.route) steps.set(who, [...(steps.get(who) ?? []), step.step]);
    const calls = step.calls.filter((one) => one.result === null && open).map((one) => one.name);
    if (calls.length) tools.set(who, [...(tools.get(who) ?? []), ...calls]);
    if (step.ended) find(shown, who, step.ended.usage.prompt, step.ended.usage.cached);
    if (step.ended?.to) links.push({ from: who, to: behind(model, step.ended.to), given: true });
  }
  for (const { from, to } of state.teams.find((team) => team.id === model)?.links ?? [])
    links.push({ from, to, given: lit.get(from) === "done" });
  run.plan?.steps.forEach(({ after }, index) => {
    const to = run.steps.find((step) => step.step === index + 1);
    for (const earlier of after) {
      const from = run.steps.find((step) => step.step === earlier);
      if (from?.agent && to?.agent && from.agent !== to.agent)
        links.push({ from: from.agent, to: to.agent, given: from.status === "done" });
    }
  });
}

