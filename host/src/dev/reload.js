// Live reload: what socket-host puts into pages while it runs with --watch.
//
// The host sends its whole state at each change: how many times the application and its style
// sheets have been exchanged since it started, and what is wrong at the moment. The page came with
// the numbers it was made with, so nothing is missed between the two, or while it did not listen.
(() => {
  "use strict";

  const EVENTS = "/.socket-host/reload";
  /** A stream that the browser has given up is asked for again after this, in ms. */
  const RETRY = 2000;
  const RELOADED = "socket-host-reload";

  const script = document.currentScript;
  if (!script || globalThis.socketHostReload) return;
  globalThis.socketHostReload = true;
  let [start, pages, styles] = script.dataset.state.split(" ");
  let source;
  let retry;

  function listen() {
    clearTimeout(retry);
    source?.close();
    source = undefined;
    // A browser opens few connections to a host: those of tabs that nobody sees are left to others.
    if (document.hidden) return;
    source = new EventSource(EVENTS);
    source.onmessage = ({ data }) => heed(JSON.parse(data));
    source.onerror = () => {
      if (source?.readyState === EventSource.CLOSED) retry = setTimeout(listen, RETRY);
    };
  }

  function heed(state) {
    const key = `${state.start} ${state.pages}`;
    if (key !== `${start} ${pages}` && reload(key)) return;
    overlay.show(state.problems);
    if (String(state.styles) !== styles) {
      styles = String(state.styles);
      restyle().catch((error) => {
        console.warn("socket-host: style sheets cannot be exchanged in place", error);
        reload(`${key} ${styles}`);
      });
    }
  }

  /** False when that was tried already: a page that comes from a cache is as old as before. */
  function reload(key) {
    if (stored() === key) return false;
    try {
      sessionStorage.setItem(RELOADED, key);
    } catch {
      // Without storage, reloading cannot be told from reloading again; nothing else is lost.
    }
    source?.close();
    location.reload();
    return true;
  }

  function stored() {
    try {
      return sessionStorage.getItem(RELOADED);
    } catch {
      return null;
    }
  }

  /**
   * Takes the style sheets that the page would come with now. Their names may hold a fingerprint of
   * their content, which only a new copy of the page tells.
   */
  async function restyle() {
    const answer = await fetch(location.href, { cache: "no-store", headers: { accept: "text/html" } });
    const type = answer.headers.get("content-type") ?? "";
    if (!answer.ok || !type.startsWith("text/html")) throw new Error(`${answer.status} ${type}`);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const wanted = sheets(page).map((link) => new URL(link.getAttribute("href"), document.baseURI));
    const present = sheets(document);
    const names = (list) => list.map((url) => nameOf(new URL(url, document.baseURI))).join();
    if (names(wanted) !== names(present.map(({ href }) => href))) throw new Error("others are linked");
    await Promise.all(present.map((link, index) => exchange(link, wanted[index])));
  }

  function sheets(page) {
    const links = [...page.querySelectorAll("link[rel~=stylesheet][href]")];
    return links.filter((link) => {
      const url = new URL(link.getAttribute("href"), document.baseURI);
      return url.origin === location.origin && !link.dataset.leaving;
    });
  }

  /** A sheet's path without the fingerprint in it: `/page.0123abcd.css` is `/page.css`. */
  function nameOf(url) {
    return url.pathname.replace(/[.-][\w-]{6,64}(?=\.css$)/, "");
  }

  /** The old sheet stays until the new one is there, so that the page is never bare. */
  function exchange(link, url) {
    if (url.pathname === new URL(link.href).pathname) url.searchParams.set("v", styles);
    const next = link.cloneNode();
    next.href = url.href;
    link.dataset.leaving = "";
    return new Promise((resolve, reject) => {
      next.onload = () => {
        link.remove();
        resolve();
      };
      next.onerror = () => {
        next.remove();
        delete link.dataset.leaving;
        reject(new Error(`${url} does not load`));
      };
      link.after(next);
    });
  }

  /** What is wrong, over the page, out of reach of its styles and without styles in its markup. */
  const overlay = {
    host: null,
    shown: "[]",

    show(problems) {
      const text = JSON.stringify(problems);
      if (text === this.shown) return;
      this.shown = text;
      this.hide();
      if (problems.length > 0) this.open(problems);
    },

    hide() {
      this.host?.remove();
      this.host = null;
    },

    open(problems) {
      this.host = document.createElement("socket-host-problems");
      const root = this.host.attachShadow({ mode: "open" });
      const sheet = new CSSStyleSheet();
      sheet.replaceSync(STYLE);
      root.adoptedStyleSheets = [sheet];
      const panel = element("section", { role: "alert" });
      const close = element("button", { type: "button", title: "Close (Escape)" }, "×");
      close.setAttribute("aria-label", "Close");
      close.onclick = () => this.hide();
      panel.append(close);
      for (const { title, text } of problems) {
        panel.append(element("h2", {}, title));
        if (text) panel.append(coloured(text));
      }
      panel.append(element("p", {}, "What is served is what there was before. This goes when it is mended."));
      root.append(panel);
      (document.body ?? document.documentElement).append(this.host);
    },
  };

  function element(name, attributes, text = "") {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = text;
    return element;
  }

  /** A terminal's text: its colours become classes, what else it asks of a terminal is left out. */
  function coloured(text) {
    const pre = element("pre", { tabindex: "0" });
    let classes = new Set();
    // Operating system commands (links), control sequences, other escapes.
    const parts = text.split(/(\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[^[\]])/);
    parts.forEach((part, index) => {
      if (index % 2 === 0) {
        if (part) pre.append(element("span", { class: [...classes].join(" ") }, part));
        return;
      }
      const codes = /^\x1b\[([\d;]*)m$/.exec(part)?.[1];
      if (codes !== undefined) classes = styled(classes, codes.split(";").map(Number));
    });
    return pre;
  }

  const COLOURS = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];

  function styled(before, codes) {
    const after = new Set(before);
    const colour = (name) => {
      for (const other of COLOURS) after.delete(other);
      if (name) after.add(name);
    };
    for (let index = 0; index < codes.length; index += 1) {
      const code = codes[index];
      if (code === 0) after.clear();
      else if (code === 1) after.add("bold");
      else if (code === 22) after.delete("bold");
      else if (code >= 30 && code <= 37) colour(COLOURS[code - 30]);
      else if (code >= 90 && code <= 97) colour(COLOURS[code - 90]);
      else if (code === 39) colour();
      else if (code === 38 || code === 48) {
        // A colour of 256, of which rustc uses the first 16, or three bytes.
        if (code === 38 && codes[index + 1] === 5) colour(COLOURS[codes[index + 2] % 8]);
        index += codes[index + 1] === 5 ? 2 : 4;
      }
    }
    return after;
  }

  const STYLE = `
    :host {
      all: initial !important;
      position: fixed !important;
      inset: 0 !important;
      z-index: 2147483647 !important;
      overflow: auto !important;
      overscroll-behavior: contain !important;
      background: rgb(0 0 0 / 66%) !important;
    }
    section {
      box-sizing: border-box;
      position: relative;
      max-width: 64rem;
      margin: 4vh auto;
      padding: 1.25rem 1.5rem;
      border-top: 6px solid #ff6e67;
      border-radius: 6px;
      background: #16181d;
      color: #e6e6e6;
      font: 16px/1.5 system-ui, sans-serif;
    }
    h2 { margin: 0.5rem 2rem 0.75rem 0; font-size: 1.1rem; color: #ff8f8a; overflow-wrap: anywhere; }
    pre {
      margin: 0 0 1rem;
      overflow: auto;
      font: 14px/1.45 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
      white-space: pre;
      tab-size: 4;
    }
    p { margin: 0; color: #a9adb5; font-size: 0.9rem; }
    button {
      position: absolute; top: 0.75rem; right: 0.75rem;
      width: 2rem; height: 2rem; border: 0; border-radius: 4px;
      background: none; color: inherit; font-size: 1.4rem; line-height: 1; cursor: pointer;
    }
    button:hover, button:focus-visible { background: #33373f; }
    .bold { font-weight: bold; }
    .black { color: #8b8f98; } .red { color: #ff8f8a; } .green { color: #8fd18b; }
    .yellow { color: #e8cf7a; } .blue { color: #8ab8ff; } .magenta { color: #dd9dea; }
    .cyan { color: #7fd6d6; } .white { color: #fff; }
  `;

  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && overlay.host) {
      overlay.hide();
      event.stopPropagation();
    }
  }, { capture: true });
  addEventListener("visibilitychange", listen);
  // A page that comes back from the browser's memory has lost its stream.
  addEventListener("pageshow", ({ persisted }) => persisted && listen());
  listen();
})();
