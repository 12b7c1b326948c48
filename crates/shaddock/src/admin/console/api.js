// The API of the admin server. The token is kept for this tab, and ends with it.

const PLACE = "shaddock.token";
let token = sessionStorage.getItem(PLACE) ?? "";

export const hasToken = () => token !== "";

export function setToken(next) {
  token = next;
  if (next) sessionStorage.setItem(PLACE, next);
  else sessionStorage.removeItem(PLACE);
}

/** What the server says against a request; `status` is 0 if it said nothing. */
export class ApiError extends Error {
  constructor(status, { code = "", message = "", column } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.column = column;
  }
}

/** Told of every answer, and of every time that there was none. */
let listener = () => {};
export const onHealth = (next) => {
  listener = next;
};

/** Asks, and returns the JSON of the answer. `key` makes a request one that is carried out once. */
export async function ask(path, { query = {}, body, signal, key } = {}) {
  const url = new URL(`../${path}`, location.href);
  url.hash = "";
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  const headers = { accept: "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  if (key) headers["idempotency-key"] = key;
  if (body !== undefined) headers["content-type"] = "application/json";
  const request = { headers, signal, cache: "no-store", credentials: "omit", redirect: "error" };
  if (body !== undefined) Object.assign(request, { method: "POST", body: JSON.stringify(body) });
  let response;
  let text;
  try {
    response = await fetch(url, request);
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    listener({ isAlive: false });
    throw new ApiError(0, { message: String(error.message ?? error) });
  }
  listener({ isAlive: true, status: response.status });
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new ApiError(response.status, { message: text.slice(0, 300) || response.statusText });
  }
  if (!response.ok) throw new ApiError(response.status, answer.error ?? {});
  return answer;
}

/** A name that no other request has. (`crypto.randomUUID` is not there without TLS.) */
export function newKey() {
  const random = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** One command for sessions of the cluster: its outcome, or an error. */
export async function command(one, { dryRun = false, perSecond = 0, key } = {}) {
  const body = { commands: [one], dry_run: dryRun, per_second: perSecond };
  const { results } = await ask("api/cluster/call", { body, key });
  if (results[0].error) throw new ApiError(200, results[0].error);
  return results[0].ok;
}

/** Does `work` at once and `ms` after each end, while the page is seen, until `signal` says stop. Its errors go to `failed`. */
export function every(ms, signal, work, failed = () => {}) {
  let timer;
  let isAtWork = false;
  const go = async () => {
    clearTimeout(timer);
    if (signal.aborted || isAtWork) return;
    if (document.hidden) return;
    isAtWork = true;
    try {
      await work();
    } catch (error) {
      if (error.name !== "AbortError" && !signal.aborted) failed(error);
    } finally {
      isAtWork = false;
    }
    if (!signal.aborted) timer = setTimeout(go, ms);
  };
  document.addEventListener("visibilitychange", go, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  go();
  return go;
}
