// A training through the API: a file of examples, a job, and what the job says.

import { call } from "./api.js";
import { changed, refresh, state, trying } from "./store.js";

const POLL = 1000;
const OVER = ["succeeded", "failed", "cancelled"];
export const isOver = (job) => OVER.includes(job.status);

/** Reads a dropped file: {file, rows, wrong}; `wrong` says which lines are no examples. */
export async function readFile(file) {
  const rows = [];
  const wrong = [];
  for (const [index, line] of (await file.text()).split("\n").entries()) {
    if (!line.trim()) continue;
    const row = parsed(line);
    if (row) rows.push(row);
    else wrong.push(index + 1);
  }
  return { file, rows, wrong };
}

/** {prompt, answer} of a line: of those two fields, or of the last two messages. */
function parsed(line) {
  let row;
  try {
    row = JSON.parse(line);
  } catch {
    return null;
  }
  if (typeof row?.prompt === "string" && row.answer !== undefined) return { prompt: row.prompt, answer: shown(row.answer) };
  const [asked, said] = Array.isArray(row?.messages) ? row.messages.slice(-2) : [];
  if (!asked || said?.role !== "assistant") return null;
  return { prompt: shown(asked.content), answer: shown(said.content ?? said.tool_calls) };
}

const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value));

/** Uploads and begins. `fields` are the job's, see /v1/fine_tuning/jobs. Raises ApiError for what the server refuses. */
export async function begin({ file }, fields) {
  const form = new FormData();
  form.append("purpose", "fine-tune");
  form.append("file", file);
  const uploaded = await call("/v1/files", { form });
  const job = await call("/v1/fine_tuning/jobs", { json: { model: "base", training_file: uploaded.id, ...fields } });
  Object.assign(state.training, { job, events: [], name: fields.suffix });
  changed();
  follow(job.id);
}

export const show = (job) => {
  Object.assign(state.training, { job, events: [], name: job.fine_tuned_model ?? "" });
  changed();
  follow(job.id);
};

export const cancel = (job) =>
  trying(async () => {
    const now = await call(`/v1/fine_tuning/jobs/${job.id}/cancel`, { method: "POST" });
    if (state.training.job?.id === job.id) state.training.job = now;
  });

export const listJobs = () =>
  trying(async () => {
    state.training.jobs = (await call("/v1/fine_tuning/jobs?limit=20")).data;
  });

/** Asks how the job is until it is over, or another one is shown. */
async function follow(id) {
  const { training } = state;
  const seen = new Set();
  for (;;) {
    const job = await trying(() => call(`/v1/fine_tuning/jobs/${id}`));
    const fresh = job && (await trying(() => newEvents(id, seen)));
    if (training.job?.id !== id) return;
    if (fresh) {
      training.job = job;
      training.events = [...training.events, ...fresh];
      changed();
      if (isOver(job)) {
        await Promise.all([refresh(), listJobs()]);
        return;
      }
    }
    await new Promise((done) => setTimeout(done, POLL));
  }
}

/** What was said since, oldest first; the API gives pages, newest first. */
async function newEvents(id, seen) {
  const fresh = [];
  for (let after = ""; ; ) {
    const page = await call(`/v1/fine_tuning/jobs/${id}/events?limit=100${after && `&after=${after}`}`);
    const unknown = page.data.filter((event) => !seen.has(event.id));
    fresh.push(...unknown);
    if (!page.has_more || unknown.length < page.data.length) break;
    after = page.data.at(-1).id;
  }
  for (const event of fresh) seen.add(event.id);
  return fresh.reverse();
}

/** What the events add up to: losses by step, how far it is, and the lines worth keeping. */
export function progress(events) {
  const losses = [];
  const heldOut = [];
  const lines = [];
  let step = null;
  for (const { message, data, level } of events) {
    if ("loss" in data && "step" in data) {
      losses.push([data.step, data.loss]);
      step = data;
    } else if ("holdout_loss" in data) {
      heldOut.push([data.step, data.holdout_loss]);
    } else if (level === "error" || !/: (\d+%|\d+ of \d+ rows)$/.test(message)) {
      lines.push({ message, level });
    }
  }
  return { losses, heldOut, lines, step, last: events.at(-1)?.message ?? "" };
}
