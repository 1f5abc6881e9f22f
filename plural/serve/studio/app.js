// The page: its head, the picture, and one of the views beside it.

import { html, render, useEffect, useRef, useState } from "./vendor/preact.js";
import { keep } from "./api.js";
import { Ask } from "./ask.js";
import { Gauges, Pulse } from "./gauges.js";
import { Library } from "./library.js";
import { Picture, told } from "./picture.js";
import { Runs } from "./runs.js";
import { changed, listen, readGauges, refresh, state } from "./store.js";
import { Train } from "./train.js";

const VIEWS = { ask: ["Ask", Ask], runs: ["Runs", Runs], library: ["Library", Library], train: ["Train", Train], gauges: ["Gauges", Gauges] };
const THEME = "plural-theme";
const THEMES = { "": "as the system", light: "light", dark: "dark" };
const GAUGES = 2000; // milliseconds between two readings
const LIBRARY = 20000;

function App() {
  const [, again] = useState(0);
  useEffect(() => listen(() => again((times) => times + 1)), []);
  const [, View] = VIEWS[state.view[0]];
  return html`
    <a class="skip" href="#content"
      onClick=${(event) => (event.preventDefault(), document.getElementById("content").focus())}>To the content</a>
    <header class="head">
      <a class="brand" href="#ask"><img src="/studio/icon.svg" alt="" width="26" height="26" />Plural</a>
      <nav aria-label="Views">${Object.entries(VIEWS).map(([name, [title]]) =>
        html`<a key=${name} href="#${name}" aria-current=${state.view[0] === name ? "page" : null}>
        ${title}</a>`)}</nav>
      <${Pulse} /><${Theme} />
    </header>
    ${state.problem && html`<p class="problem" role="alert">${state.problem}</p>`}
    <div class="house">
      <aside aria-label="The network"><${Picture} /><p class="unseen" role="status">${told()}</p></aside>
      <main id="content" tabindex="-1"><${View} /></main>
    </div>
    <${Lock} />`;
}

function Theme() {
  const [theme, setTheme] = useState(document.documentElement.dataset.theme ?? "");
  const turn = () => {
    const names = Object.keys(THEMES);
    const next = names[(names.indexOf(theme) + 1) % names.length];
    wear(next);
    setTheme(next);
  };
  return html`<button type="button" class="plain theme" onClick=${turn} aria-label="Colours: ${THEMES[theme]}"
    title="Colours: ${THEMES[theme]}">${{ "": "◐", light: "☀", dark: "☾" }[theme]}</button>`;
}

function wear(theme) {
  localStorage.setItem(THEME, theme);
  document.documentElement.dataset.theme = theme;
}

/** Asks for the API key, where the server wants one. */
function Lock() {
  const dialog = useRef(null);
  const [wrong, setWrong] = useState(false);
  useEffect(() => {
    if (state.locked && !dialog.current.open) dialog.current.showModal();
    if (!state.locked) dialog.current.close();
  }, [state.locked]);
  const open = async (event) => {
    event.preventDefault();
    keep(event.target.elements.key.value.trim());
    await refresh();
    setWrong(state.locked);
    if (!state.locked) readGauges();
  };
  return html`<dialog ref=${dialog} aria-labelledby="lock" onCancel=${(event) => event.preventDefault()}>
    <form onSubmit=${open}>
      <h2 id="lock">This server wants an API key</h2>
      <p>As <code>plural keys add</code> has shown it. It stays in this tab, until it is closed.</p>
      <label>API key <input name="key" type="password" required autocomplete="off" /></label>
      ${wrong && html`<p class="error" role="alert">This key is not known.</p>`}
      <button class="main">Open</button>
    </form>
  </dialog>`;
}

/** The view that the address names. */
function turned() {
  const [view, ...rest] = location.hash.slice(1).split("/");
  state.view = view in VIEWS ? [view, ...rest] : ["ask"];
  document.title = `${VIEWS[state.view[0]][0]} · Plural`;
  changed();
}

function every(milliseconds, work) {
  setInterval(() => !document.hidden && !state.locked && work(), milliseconds);
}

wear(localStorage.getItem(THEME) ?? "");
addEventListener("hashchange", turned);
turned();
const app = document.getElementById("app");
app.replaceChildren();
render(html`<${App} />`, app);
refresh().then(() => state.locked || readGauges());
every(GAUGES, readGauges);
every(LIBRARY, refresh);
