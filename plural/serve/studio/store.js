// What the page knows. The page is a function of it: whoever changes something calls `changed`.

import { ApiError, call, metrics } from "./api.js";
import { skill } from "./colours.js";

export const NETWORK = "network";
export const BASE = "base";
const KEPT = 150; // readings of /metrics
const FLASH = 1500; // milliseconds that somebody whom another client asked stays lit

export const state = {
  view: ["ask"], // of the address: #library/cron is ["library", "cron"]
  base: null, // the base as /v1/models tells it
  cards: null, // of the library; null until it is known
  teams: [], // that are kept, see teamOf()
  team: null, // the id of the one that is pointed at
  turns: [], // questions and their answers, see asking.js
  replay: null, // {answer, upto}: a run that is looked at again, as far as the slider is
  draft: { text: "", model: NETWORK, beside: false },
  models: [], // every id that can be asked
  running: { list: null, run: null, events: [], upto: null, problem: "" }, // see running.js
  training: { file: null, job: null, events: [], jobs: [] }, // see training.js
  readings: [], // of the gauges, newest last, see read()
  flashes: new Map(), // name -> until when
  locked: false, // the server wants a key
  problem: "", // why the server cannot be asked
};

let listener = () => {};
export const listen = (to) => (listener = to);
export const changed = () => listener();

/** A specialist's colour, by its place in the library. */
export const hueOf = (name) => {
  const index = (state.cards ?? []).findIndex((card) => card.name === name);
  return index < 0 ? "skill-none" : skill(index);
};

export const cardOf = (name) => (state.cards ?? []).find((card) => card.name === name);

/** Runs what asks the server; what is refused for want of a key opens the lock's dialog. */
export async function trying(work) {
  try {
    const made = await work();
    state.problem = "";
    return made;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) state.locked = true;
    else state.problem = error.message;
    return null;
  } finally {
    changed();
  }
}

export const refresh = () =>
  trying(async () => {
    const paths = ["/v1/models", "/v1/library", "/v1/teams"];
    const [models, library, teams] = await Promise.all(paths.map((path) => call(path)));
    state.base = models.data.find((model) => model.id === BASE);
    state.models = models.data.map((model) => model.id);
    const mine = new Set(state.models);
    state.cards = library.data.filter((card) => mine.has(card.name));
    state.teams = teams.data.map(teamOf);
    state.locked = false;
  });

/** {id, behind, members, links}: the specialist behind each agent, the specialists in the order in which the plan asks
 *  them, and who of them gets whose answer. */
function teamOf({ id, team: { agents, steps } }) {
  const behind = new Map(agents.map((agent) => [agent.name, agent.specialist]));
  const asked = steps.map((step) => step.agents.map((name) => behind.get(name)));
  const links = steps.flatMap(({ inputs }, index) =>
    inputs.flatMap((earlier) => asked[earlier - 1].flatMap((from) => asked[index].map((to) => ({ from, to })))),
  );
  return { id, behind, members: asked.flat(), links: links.filter(({ from, to }) => from !== to) };
}

/** The specialist behind an agent of a model that is a team; an agent that is no such team's stands for itself. */
export const behind = (model, agent) => state.teams.find((team) => team.id === model)?.behind.get(agent) ?? agent;

const summed = (samples, name, labels = {}) =>
  samples
    .filter((one) => one.name === name && Object.entries(labels).every(([key, value]) => one.labels[key] === value))
    .reduce((sum, one) => sum + one.value, 0);

/** One reading of /metrics: what the gauges show and the picture's sizes are made of. */
function reading(samples) {
  const engine = (name) => summed(samples, `plural_engine_${name}`);
  const use = new Map();
  for (const { name, labels, value } of samples) {
    const who = { plural_request_seconds_count: labels.model, plural_steps_total: labels.agent }[name];
    if (who) use.set(who, (use.get(who) ?? 0) + value);
  }
  return {
    at: Date.now(),
    said: summed(samples, "plural_tokens_total", { kind: "completion" }),
    computed: engine("computed_total"),
    cached: engine("cached_total"),
    prompted: summed(samples, "plural_tokens_total", { kind: "prompt" }),
    found: summed(samples, "plural_tokens_total", { kind: "cached" }),
    running: engine("running"),
    waiting: engine("waiting"),
    pages: engine("pages"),
    used: engine("pages_used"),
    kept: engine("pages_cached"),
    adapters: engine("adapters"),
    inside: summed(samples, "plural_answers_inside"),
    refused: summed(samples, "plural_answers_refused"),
    gone: summed(samples, "plural_disconnects_total"),
    use,
    samples,
  };
}

/** `quiet` lights nobody: whom this page has asked was lit while they worked. */
export const readGauges = ({ quiet = false } = {}) =>
  trying(async () => {
    const now = reading(await metrics());
    const before = state.readings.at(-1);
    if (before && !quiet)
      for (const [name, times] of now.use)
        if (times > (before.use.get(name) ?? 0)) state.flashes.set(name, Date.now() + FLASH);
    for (const [name, until] of state.flashes) if (until < Date.now()) state.flashes.delete(name);
    state.readings = [...state.readings.slice(1 - KEPT), now];
  });

/** What grows, by the second, between each reading and the one before. */
export function rates(name) {
  const { readings } = state;
  return readings.slice(1).map((now, index) => {
    const before = readings[index];
    return [now.at, Math.max(0, (now[name] - before[name]) / ((now.at - before.at) / 1000))];
  });
}

export const lately = (name) => rates(name).at(-1)?.[1] ?? 0;
