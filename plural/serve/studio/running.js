// Runs through the API: started, listened to, answered, cancelled, forked.

import { ApiError, call, stream } from "./api.js";
import { changed, state, trying } from "./store.js";

const AGAIN = 1000; // milliseconds until a stream that broke is taken up again
const OVER = ["finished", "failed", "cancelled"];
export const isOver = (run) => OVER.includes(run.status);

const path = (id, what = "") => `/v1/runs/${encodeURIComponent(id)}${what && `/${what}`}`;

export const listRuns = () =>
  trying(async () => {
    state.running.list = (await call("/v1/runs?limit=50")).data;
  });

/** Raises ApiError for what the server refuses. */
export async function startRun(model, input) {
  const run = await call("/v1/runs", { json: { model, input } });
  location.hash = `#runs/${run.id}`;
}

/** The events that the slider lets one see. */
export const shownOf = ({ events, upto }) => (upto === null ? events : events.slice(0, upto));

/** Listens to a run until `signal`; what breaks is taken up again after the last event that was there. */
export async function watch(id, signal) {
  Object.assign(state.running, { run: null, events: [], upto: null, problem: "" });
  await read(id);
  while (!signal.aborted && state.running.run) {
    const last = state.running.events.at(-1)?.seq ?? -1;
    try {
      for await (const event of stream(path(id, `events?after=${last}`), { signal })) {
        if (signal.aborted) return;
        heard(event);
        if (["waits", "Answered", "Resumed", "end"].includes(event.event)) await read(id);
        changed();
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error instanceof ApiError && error.status && error.status < 500) return;
    }
    await read(id);
    if (state.running.run && isOver(state.running.run)) return;
    await new Promise((done) => setTimeout(done, AGAIN));
  }
}

const read = (id) =>
  trying(async () => {
    const run = await call(path(id));
    if (state.view[1] === id) state.running.run = run;
  });

function heard(event) {
  const { running } = state;
  if (event.seq === undefined) return; // what it says of the run itself is read
  const void_ = new Set(event.event === "Retracted" ? event.entries : (event.retracted ?? []));
  if (void_.size) running.events = running.events.filter((one) => !void_.has(one.seq));
  if (event.event !== "Retracted") running.events = [...running.events, event];
}

/** Asks the server to do something with the run that is shown; what it refuses is told beside it. */
export async function act(what, json = {}) {
  const { running } = state;
  running.problem = "";
  try {
    running.run = await call(path(running.run.id, what), { json });
    return running.run;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    running.problem = error.message;
    return null;
  } finally {
    changed();
  }
}

/** Rows of the timeline: events one by one, but texts of one agent that follow each other are one. */
export function rows(events) {
  const made = [];
  for (const event of events) {
    const before = made.at(-1);
    const joins = event.event === "TextDelta" && before?.event === "TextDelta";
    if (joins && before.step === event.step && before.agent === event.agent)
      made[made.length - 1] = { ...before, text: before.text + event.text, seq: event.seq };
    else made.push(event);
  }
  return made;
}
