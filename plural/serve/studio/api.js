// All that the studio can do: requests to the server's public API, as curl could make them.

const KEY = "plural-key";

export class ApiError extends Error {
  constructor(status, error) {
    super(error?.message ?? `The server answered with ${status}.`);
    this.status = status;
    this.code = error?.code ?? null;
  }
}

/** The key stays in this tab, until it is closed. */
export const keep = (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY));

/** Raises ApiError for what the server refuses. `json` or `form` is the body. */
async function request(path, { method, json, form, signal, headers: more } = {}) {
  const headers = { ...more };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (json) headers["Content-Type"] = "application/json";
  const body = json ? JSON.stringify(json) : form;
  let answer;
  try {
    answer = await fetch(path, { method: method ?? (body ? "POST" : "GET"), headers, body, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: "The server cannot be reached. Is plural serve running?", code: "unreachable" });
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new ApiError(answer.status, said.error);
}

export const call = async (path, options) => (await request(path, options)).json();

/** The events of a stream as they come, parsed. */
export async function* stream(path, options) {
  const reader = (await request(path, options)).body.pipeThrough(new TextDecoderStream()).getReader();
  let kept = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (kept + value).split("\n\n");
      kept = events.pop();
      for (const event of events) {
        const data = event.split("\n").find((line) => line.startsWith("data: "))?.slice(6);
        if (data === undefined) continue; // a sign of life
        if (data === "[DONE]") return;
        yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

const SAMPLE = /^(\w+)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** /metrics as [{name, labels, value}]. */
export async function metrics() {
  const text = await (await request("/metrics")).text();
  const samples = [];
  for (const line of text.split("\n")) {
    const [, name, labels, value] = SAMPLE.exec(line) ?? [];
    if (!name) continue;
    const parsed = Object.fromEntries([...(labels ?? "").matchAll(LABEL)].map(([, key, said]) => [key, said]));
    samples.push({ name, labels: parsed, value: Number(value.replace("Inf", "Infinity")) });
  }
  return samples;
}
