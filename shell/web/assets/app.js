// What plain HTML can't: copying, live parts, times that go on, toasts that leave.
"use strict";
(() => {
  document.documentElement.classList.add("script");

  // ---- Copying ----
  const say = (text) => {
    const toast = document.createElement("div");
    toast.className = "toast";
    toast.textContent = text;
    document.getElementById("toasts").append(toast);
    leave(toast, 2000);
  };
  const leave = (toast, after) => {
    setTimeout(() => toast.classList.add("going"), after);
    setTimeout(() => toast.remove(), after + 500);
  };
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.classList.add("copied");
      setTimeout(() => button.classList.remove("copied"), 1500);
      say("Copied");
    } catch {
      // Without TLS there is no clipboard: the text is selected, so that one key copies it.
      const text = button.parentElement.querySelector("code");
      if (text) getSelection().selectAllChildren(text);
    }
  });

  // ---- Menus close when they are used ----
  document.addEventListener("click", (event) => {
    const side = document.getElementById("side");
    if (event.target.closest("#side a") && side.matches(":popover-open")) side.hidePopover();
  });

  // ---- Live parts: elements with data-live are compared with what the page says now ----
  const adopt = (part, fresh) => {
    if (part.outerHTML === fresh.outerHTML) return;
    const focused = document.activeElement;
    if (part.dataset.live === "rows" && fresh.dataset.live === "rows") return adoptRows(part, fresh);
    // A form that somebody is filling in stays.
    if (part.contains(focused) && focused.matches("input, select, textarea")) return;
    const id = part.contains(focused) ? focused.id : "";
    part.replaceWith(fresh);
    window.htmx?.process(fresh);
    if (id) document.getElementById(id)?.focus({ preventScroll: true });
  };
  const adoptRows = (list, fresh) => {
    const old = new Map([...list.children].map((row) => [row.id, row]));
    let at = list.firstElementChild;
    for (const row of [...fresh.children]) {
      const before = old.get(row.id);
      old.delete(row.id);
      if (!before) {
        row.classList.add("fresh");
        list.insertBefore(row, at);
        continue;
      }
      if (before === at) at = at.nextElementSibling;
      else list.insertBefore(before, at);
      if (before.outerHTML !== row.outerHTML) {
        const key = before.contains(document.activeElement) ? document.activeElement.dataset.key || "main" : "";
        before.replaceWith(row);
        if (key) row.querySelector(`[data-key="${key}"], .main`)?.focus({ preventScroll: true });
      }
    }
    old.forEach((row) => row.remove());
  };
  let fetching = false;
  let again = false;
  const refresh = async () => {
    if (fetching) return void (again = true);
    fetching = true;
    try {
      const answer = await fetch(location.href, { headers: { "warren-live": "1" }, cache: "no-store" });
      if (answer.redirected || !answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of document.querySelectorAll("[data-live]")) {
        const fresh = part.id && page.getElementById(part.id);
        if (fresh) adopt(part, document.adoptNode(fresh));
        // What was shown isn't there at all any more: another kind of page.
        else return location.reload();
      }
      tick();
    } catch {
      // The stream tells when the broker is back.
    } finally {
      fetching = false;
      if (again) { again = false; refresh(); }
    }
  };
  let stream = null;
  const watch = () => {
    const from = document.body.dataset.liveFrom;
    if (!from || stream || document.hidden) return;
    stream = new EventSource(from);
    stream.addEventListener("changed", refresh);
    stream.addEventListener("over", () => { stream.close(); location.reload(); });
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { stream?.close(); stream = null; return; }
    if (document.body.dataset.liveFrom) { watch(); refresh(); }
  });

  // ---- Times go on ----
  const units = [[60, "s"], [3600, "min", 60], [86400, "h", 3600]];
  const ago = (seconds) => {
    if (seconds < 5) return "just now";
    for (const [below, unit, by = 1] of units) if (seconds < below) return `${Math.floor(seconds / by)} ${unit} ago`;
    return null;
  };
  const tick = () => {
    for (const time of document.querySelectorAll("time[data-ago]")) {
      const past = (Date.now() - Date.parse(time.dateTime)) / 1000;
      const text = past >= 0 ? ago(past) : null;
      if (text && time.textContent !== text) time.textContent = text;
    }
  };

  // ---- A text with its lines' numbers, those with a problem marked ----
  const number = () => {
    const text = document.querySelector(".editor textarea");
    if (!text) return;
    let gutter = text.parentElement.querySelector(".gutter");
    if (!gutter) {
      gutter = document.createElement("div");
      gutter.className = "gutter";
      gutter.setAttribute("aria-hidden", "true");
      text.before(gutter);
      text.addEventListener("scroll", () => { gutter.scrollTop = text.scrollTop; });
      text.addEventListener("input", number);
    }
    const wrong = new Map();
    for (const found of document.querySelectorAll("#findings [data-line]")) {
      const tone = "error" in found.dataset ? "bad" : "warn";
      if (wrong.get(+found.dataset.line) !== "bad") wrong.set(+found.dataset.line, tone);
    }
    const lines = text.value.split("\n").map((_, index) => {
      const line = document.createElement("div");
      line.textContent = index + 1;
      line.className = wrong.get(index + 1) ?? "";
      return line;
    });
    gutter.replaceChildren(...lines);
    gutter.scrollTop = text.scrollTop;
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-go]");
    const text = document.querySelector(".editor textarea");
    if (!button || !text) return;
    document.querySelector("[name=view][value=text]").checked = true;
    const [line, column] = button.dataset.go.split(":").map(Number);
    const lines = text.value.split("\n");
    const start = lines.slice(0, line - 1).reduce((sum, before) => sum + before.length + 1, 0);
    text.focus();
    text.setSelectionRange(start + column - 1, start + lines[line - 1].length);
    const height = text.scrollHeight / lines.length;
    text.scrollTop = height * (line - 6);
    text.scrollIntoView({ block: "nearest" });
  });
  document.addEventListener("htmx:afterSettle", number);

  // ---- What isn't saved isn't left by mistake ----
  let leaving = false;
  document.addEventListener("submit", () => { leaving = true; });
  document.addEventListener("click", (event) => { if (event.target.closest("[data-discard]")) leaving = true; });
  addEventListener("beforeunload", (event) => {
    const text = document.querySelector(".editor textarea");
    const unsaved = document.querySelector("[data-unsaved]") || (text && text.value !== text.defaultValue);
    if (unsaved && !leaving) event.preventDefault();
  });

  // ---- A secret in the link's fragment, which no log has seen, goes on in a form's body ----
  const unwrap = () => {
    const field = document.querySelector("[data-fragment]");
    if (!field || location.hash.length < 2) return;
    field.value = decodeURIComponent(location.hash.slice(1));
    history.replaceState(null, "", location.pathname);
    field.form.requestSubmit();
  };

  // ---- A command that holds this page's own address, secret and all ----
  const fill = () => {
    const command = document.querySelector("[data-here]");
    if (!command || location.hash.length < 2) return;
    command.textContent = command.dataset.here.replace("HERE", location.href.replaceAll("'", "%27"));
    command.closest(".code").querySelector("button").dataset.copy = command.textContent;
  };

  const start = () => {
    unwrap();
    fill();
    number();
    for (const toast of document.querySelectorAll(".toast:not(.bad)")) leave(toast, 5000);
    watch();
    tick();
    setInterval(tick, 10000);
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
