// The view where a specialist is made from a dropped file, watched, and tried beside the base.

import { html, useEffect, useState } from "./vendor/preact.js";
import { ApiError } from "./api.js";
import { ask } from "./asking.js";
import { Intervals, Lines } from "./charts.js";
import { cardOf, changed, hueOf, state } from "./store.js";
import { begin, cancel, isOver, listJobs, progress, readFile, show } from "./training.js";

export function Train() {
  useEffect(() => void listJobs(), []);
  const { job, jobs } = state.training;
  return html`<div class="page">
    <h1>Train a specialist</h1>
    ${job ? html`<${Job} job=${job} />` : html`<${Order} />`}
    ${jobs.length > 0 && html`<h2>Trainings</h2><ul class="versions">${jobs.map((one) => html`<li key=${one.id}>
      <b>${one.fine_tuned_model ?? one.id.slice(0, 14)}</b> <small>
        ${new Date(one.created_at * 1000).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" })}</small>
      <span class="push"></span><em>${one.status}</em>
      <button type="button" disabled=${job?.id === one.id} onClick=${() => show(one)}>Show</button>
    </li>`)}</ul>`}
  </div>`;
}

// ------------------------------------------------------------------------------------------------------------ the order
function Order() {
  const { file } = state.training;
  const [over, setOver] = useState(false);
  const take = async (files) => {
    if (files[0]) state.training.file = await readFile(files[0]);
    changed();
  };
  const chosen = ({ target }) => {
    take(target.files);
    target.value = ""; // so that the same file can be chosen again when it was mended
  };
  const drop = (event) => {
    event.preventDefault();
    setOver(false);
    take(event.dataTransfer.files);
  };
  return html`
    <p class="lead">Drop a file of examples, one JSON object a line:
      <code> {"prompt": …, "answer": …}</code> or chat <code>messages</code>.</p>
    <label class="drop ${over ? "over" : ""}" onDragOver=${(event) => (event.preventDefault(), setOver(true))}
      onDragLeave=${() => setOver(false)} onDrop=${drop}>
      <input type="file" accept=".jsonl,.json,.ndjson" onChange=${chosen} />
      <b>${file ? file.file.name : "Drop a JSONL file here, or choose one"}</b>
      ${file && html`<span>${file.rows.length.toLocaleString("en")} examples</span>`}
    </label>
    ${file && html`<${Rows} ...${file} />`}
    ${file?.rows.length > 0 && html`<${Fields} key=${file.file.name} file=${file} />`}`;
}

function Rows({ rows, wrong }) {
  return html`
    ${wrong.length > 0 && html`<p class="error" role="alert">
      ${wrong.length === 1 ? "Line" : "Lines"} ${wrong.slice(0, 5).join(", ")}
      ${wrong.length > 5 ? " …" : ""}: no example.</p>`}
    ${rows.length > 0 && html`<table class="rows"><caption class="unseen">The first examples</caption>
      <thead><tr><th scope="col">Prompt</th><th scope="col">Answer</th></tr></thead>
      <tbody>${rows.slice(0, 3).map((row, index) => html`<tr key=${index}><td>${row.prompt}</td><td>${row.answer}</td>
        </tr>`)}</tbody>
    </table>`}`;
}

const nameOf = (file) =>
  file.name
    .replace(/\.\w+$/, "")
    .toLowerCase()
    .replace(/[^a-z0-9_-]+/g, "-")
    .replace(/^[-_]+/, "")
    .slice(0, 64);

function Fields({ file }) {
  const [problem, setProblem] = useState("");
  const [sending, setSending] = useState(false);
  const send = async (event) => {
    event.preventDefault();
    const given = Object.fromEntries(new FormData(event.target));
    const number = (name) => (given[name] ? { [name]: Number(given[name]) } : {});
    const activated = given.activated ? { activated: true } : {};
    const hyperparameters = { ...number("n_epochs"), ...number("rank"), ...number("max_steps"), ...activated };
    setSending(true);
    try {
      await begin(file, {
        suffix: given.suffix, purpose: given.purpose, checker: given.checker, replace: Boolean(given.replace),
        ...(given.instructions ? { instructions: given.instructions } : {}),
        ...(Object.keys(hyperparameters).length ? { hyperparameters } : {}),
      });
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      setProblem(error.message);
      setSending(false);
    }
  };
  return html`<form class="fields" onSubmit=${send}>
    <label>Name <input name="suffix" required pattern="[a-z0-9][a-z0-9_\\-]*" maxlength="64"
      defaultValue=${nameOf(file.file)} autocomplete="off" /></label>
    <label class="wide">What it is for <input name="purpose" maxlength="512" placeholder="Sorts support tickets."
      autocomplete="off" /></label>
    <label>Answers are compared <select name="checker"><option value="exact">exactly</option>
      <option value="json">as JSON</option><option value="cron">as cron expressions</option>
      <option value="toolcall">as tool calls</option></select></label>
    <details><summary>More</summary><div class="fields">
      <label class="wide">Instructions <textarea name="instructions" rows="2" maxlength="8192"></textarea></label>
      <label>Epochs <input name="n_epochs" type="number" min="1" placeholder="auto" /></label>
      <label>Rank <input name="rank" type="number" min="1" max="512" placeholder="auto" /></label>
      <label>Steps at most <input name="max_steps" type="number" min="1" placeholder="auto" /></label>
      <label class="check"><input name="activated" type="checkbox" /> acts on the answer only (aLoRA)</label>
      <label class="check"><input name="replace" type="checkbox" /> may take over its name, if not worse</label>
    </div></details>
    ${problem && html`<p class="error" role="alert">${problem}</p>`}
    <button class="main" disabled=${sending}>Train</button>
  </form>`;
}

// -------------------------------------------------------------------------------------------------------------- the job
function Job({ job }) {
  const { events, name } = state.training;
  const made = progress(events);
  const { step } = made;
  const over = isOver(job);
  const another = () => (Object.assign(state.training, { job: null, file: null, events: [] }), changed());
  return html`<section class="job" aria-label="Training">
    <header class="row"><b>${name || job.id}</b> <em class=${job.status}>${job.status}</em><span class="push"></span>
      ${over ? html`<button type="button" onClick=${another}>Train another</button>` : html`<button type="button"
        onClick=${() => cancel(job)}>Cancel</button>`}</header>
    ${step && html`<p class="row numbers"><progress max=${step.of} value=${step.step} aria-label="Steps"></progress>
      <span>step <b>${step.step}</b> of ${step.of}</span><span>loss <b>${step.loss.toFixed(3)}</b></span>
      <span><b>${Math.round(step.tokens_per_second)}</b> tokens/s</span>${!over && html`<span>
        ${left(step.seconds_left)} left</span>`}</p>`}
    <${Lines} label="Loss by step; now ${step ? step.loss.toFixed(3) : "not known"}" height=${220} across="step"
      format=${(value) => value.toFixed(1)}
      series=${[
        { name: "loss", hue: "skill-0", points: made.losses },
        { name: "held-out loss", hue: "skill-1", points: made.heldOut, dots: true },
      ].filter((one) => one.points.length)} />
    <ul class="log" aria-label="What the training says">${made.lines.map((line, index) =>
      html`<li key=${index} class=${line.level}>${line.message}</li>`)}
      ${!over && html`<li class="now" role="status">${made.last}</li>`}</ul>
    ${job.status === "succeeded" && html`<${Trained} name=${job.fine_tuned_model} />`}
  </section>`;
}

const left = (seconds) => (seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`);

/** The new specialist, its scores, and a field to try it beside the base. */
function Trained({ name }) {
  const card = cardOf(name);
  const { file } = state.training;
  const [prompt, setPrompt] = useState(file?.rows.at(-1)?.prompt ?? "");
  const scores = ["base", "specialist"].flatMap((kind) => {
    const score = card?.scores[kind]?.[0];
    const who = kind === "base" ? { name: kind, hue: kind } : { name, hue: hueOf(name) };
    return score ? [{ ...who, ...score, note: `of ${score.n}` }] : [];
  });
  const go = (event) => {
    event.preventDefault();
    Object.assign(state.draft, { model: name, beside: true });
    ask(name, prompt, true);
    location.hash = "#ask";
  };
  return html`<div class=${hueOf(name)}>
    ${scores.length > 0 && html`<h2>Held-out rows</h2><${Intervals} label="Scores on held-out rows" rows=${scores} />`}
    <h2>Try it</h2>
    <form class="row" onSubmit=${go}>
      <label class="unseen" for="try">What to ask it</label>
      <input id="try" class="push" value=${prompt} onInput=${(event) => setPrompt(event.target.value)} />
      <button class="main" disabled=${!prompt.trim()}>Ask beside the base</button>
    </form>
    <p><a href="#library/${name}">Its card</a></p>
  </div>`;
}
