// The token is typed in and kept for this tab only.

import { ask, setToken } from "./api.js";
import { h, newId } from "./dom.js";
import { t } from "./format.js";

/** Asks for a token; `done` gets what it allows. `why` says why it is asked for again. */
export function login(main, { done, why }) {
  const [field, said] = [newId(), newId()];
  const input = h("input", {
    id: field,
    type: "password",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
    "aria-describedby": said,
  });
  const problem = h("p", { id: said, class: "problem", role: "alert" }, why ?? "");
  const button = h("button", { type: "submit", class: "main" }, t("login.go"));
  const submit = async (event) => {
    event.preventDefault();
    const token = input.value.trim();
    if (!token) return;
    button.disabled = true;
    problem.textContent = "";
    setToken(token);
    try {
      const who = await ask("api/whoami");
      if (who.scope === "push") throw Object.assign(new Error(t("login.push")), { isSaid: true });
      done(who);
    } catch (error) {
      setToken("");
      problem.textContent = error.isSaid ? error.message : error.status === 401 ? t("login.wrong") : error.status === 0 ? t("trouble.silent") : error.message;
      input.setAttribute("aria-invalid", "true");
      input.select();
      input.focus();
    } finally {
      button.disabled = false;
    }
  };
  main.replaceChildren(
    h(
      "form",
      { class: "login", onsubmit: submit, novalidate: true },
      h("h1", {}, t("login.title")),
      h("p", {}, t("login.about")),
      h("label", { for: field }, t("login.token")),
      h("div", { class: "row" }, input, button),
      problem,
      h("p", { class: "muted" }, t("login.scopes")),
    ),
  );
  input.focus();
}
