// Live reload: socket-host adds this script to pages while it runs with --watch.
//
// On each change, the host sends its whole state: how often pages and style sheets have been
// reloaded since its start, and the current problems. The script tag carries the counters as of the
// request for the page, so no change is missed before the page listens, or while it does not.
(() => {
  "use strict";

  const SOCKET = "/.socket-host/reload";
  /** The delay before the first attempt to reconnect. It doubles with each further attempt. */
  const MIN_RETRY_MS = 250;
  const MAX_RETRY_MS = 2000;
  const STYLE_TIMEOUT_MS = 10_000;
  const STORAGE_KEY = "socket-host-reload";

  const script = document.currentScript;
  if (!script || globalThis.socketHostReload) return;
  globalThis.socketHostReload = true;
  // `start` identifies the run of the host; `pages` and `styles` count reloads.
  let [start, pages, styles] = script.dataset.state.split(" ");
  let isReplacingStyles = false;
  let socket;
  let retryTimer;
  let retryMs = MIN_RETRY_MS;

  // A WebSocket, since an event stream would occupy one of six connections to the host.
  function listen() {
    disconnect();
    // Hidden pages catch up when they become visible.
    if (document.hidden) return;
    socket = new WebSocket(location.origin.replace(/^http/, "ws") + SOCKET);
    socket.onopen = () => (retryMs = MIN_RETRY_MS);
    socket.onmessage = ({ data }) => update(JSON.parse(data));
    // Also follows a failure to connect.
    socket.onclose = () => {
      retryTimer = setTimeout(listen, retryMs);
      retryMs = Math.min(2 * retryMs, MAX_RETRY_MS);
    };
  }

  function disconnect() {
    clearTimeout(retryTimer);
    if (!socket) return;
    socket.onmessage = socket.onclose = null;
    socket.close();
    socket = undefined;
  }

  function update(state) {
    const version = `${state.start} ${state.pages}`;
    if (version !== `${start} ${pages}` && reload(version)) return;
    overlay.show(state.problems);
    if (String(state.styles) !== styles) {
      styles = String(state.styles);
      reloadStyles();
    }
  }

  /**
   * Reloads the page. Returns false if it has been reloaded for this version before: a page from a
   * cache would stay outdated, and reload for ever.
   */
  function reload(version) {
    if (lastReload() === version) return false;
    try {
      sessionStorage.setItem(STORAGE_KEY, version);
    } catch {
      // Without storage, repeated reloads are not detected.
    }
    disconnect();
    location.reload();
    return true;
  }

  function lastReload() {
    try {
      return sessionStorage.getItem(STORAGE_KEY);
    } catch {
      return null;
    }
  }

  /**
   * Replaces the style sheets until they are current. Changes that come meanwhile are applied
   * afterwards, because a style sheet that is still loading cannot be replaced.
   */
  async function reloadStyles() {
    if (isReplacingStyles) return;
    isReplacingStyles = true;
    try {
      for (let applied; applied !== styles; ) {
        applied = styles;
        await replaceStyles();
      }
    } catch (error) {
      console.warn("socket-host: failed to replace the style sheets, reloading the page", error);
      reload(`${start} ${pages} ${styles}`);
    } finally {
      isReplacingStyles = false;
    }
  }

  /**
   * Replaces the style sheets by those of a new copy of the page, since their names may contain a
   * fingerprint of their content.
   */
  async function replaceStyles() {
    const response = await fetch(location.href, { cache: "no-store", headers: { accept: "text/html" } });
    const type = response.headers.get("content-type") ?? "";
    if (!response.ok || !type.startsWith("text/html")) throw new Error(`unexpected response: ${response.status} ${type}`);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const urls = styleSheets(page).map((link) => new URL(link.getAttribute("href"), document.baseURI));
    const links = styleSheets(document);
    const names = (list) => list.map((url) => nameOf(new URL(url, document.baseURI))).join();
    if (names(urls) !== names(links.map(({ href }) => href))) throw new Error("the page links other style sheets");
    await Promise.all(links.map((link, index) => replaceSheet(link, urls[index])));
  }

  /** Returns the links to style sheets of this origin. */
  function styleSheets(page) {
    const links = [...page.querySelectorAll("link[rel~=stylesheet][href]")];
    return links.filter((link) => {
      const url = new URL(link.getAttribute("href"), document.baseURI);
      return url.origin === location.origin;
    });
  }

  /** Returns a style sheet's path without its fingerprint: `/page.css` for `/page.0123abcd.css`. */
  function nameOf(url) {
    return url.pathname.replace(/[.-][\w-]{6,64}(?=\.css$)/, "");
  }

  /** Removes the old style sheet once the new one has loaded, so that the page is never unstyled. */
  function replaceSheet(link, url) {
    if (url.pathname === new URL(link.href).pathname) url.searchParams.set("v", styles);
    const next = link.cloneNode();
    next.href = url.href;
    return new Promise((resolve, reject) => {
      const fail = () => {
        next.remove();
        reject(new Error(`failed to load ${url}`));
      };
      // A link that the page has removed meanwhile never loads.
      const timer = setTimeout(fail, STYLE_TIMEOUT_MS);
      next.onload = () => {
        clearTimeout(timer);
        link.remove();
        resolve();
      };
      next.onerror = () => {
        clearTimeout(timer);
        fail();
      };
      link.after(next);
    });
  }

  /**
   * Displays problems over the page. A shadow root isolates it from the styles of the page, and a
   * constructed style sheet needs no `style-src` in its Content-Security-Policy.
   */
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
        if (text) panel.append(terminalText(text));
      }
      panel.append(element("p", {}, "The previous version is still served. This message disappears when the problem is fixed."));
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

  /** Renders terminal output: colours become classes, and other escape sequences are removed. */
  function terminalText(text) {
    const pre = element("pre", {});
    let classes = new Set();
    // Operating system commands (such as links), control sequences, other escape sequences.
    const parts = text.split(/(\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[^[\]])/);
    parts.forEach((part, index) => {
      if (index % 2 === 0) {
        if (part) pre.append(element("span", { class: [...classes].join(" ") }, part));
        return;
      }
      const codes = /^\x1b\[([\d;]*)m$/.exec(part)?.[1];
      if (codes !== undefined) classes = applyCodes(classes, codes.split(";").map(Number));
    });
    return pre;
  }

  const COLOURS = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];

  /** Applies the codes of an SGR sequence (Select Graphic Rendition) to a set of classes. */
  function applyCodes(current, codes) {
    const classes = new Set(current);
    const setColour = (name) => {
      for (const other of COLOURS) classes.delete(other);
      if (name) classes.add(name);
    };
    for (let index = 0; index < codes.length; index += 1) {
      const code = codes[index];
      if (code === 0) classes.clear();
      else if (code === 1) classes.add("bold");
      else if (code === 22) classes.delete("bold");
      else if (code >= 30 && code <= 37) setColour(COLOURS[code - 30]);
      else if (code >= 90 && code <= 97) setColour(COLOURS[code - 90]);
      else if (code === 39) setColour();
      else if (code === 38 || code === 48) {
        // One of 256 colours, of which rustc uses the first 16, or three bytes.
        if (code === 38 && codes[index + 1] === 5) setColour(COLOURS[codes[index + 2] % 8]);
        index += codes[index + 1] === 5 ? 2 : 4;
      }
    }
    return classes;
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
      font: 14px/1.45 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
      white-space: pre-wrap;
      overflow-wrap: anywhere;
      tab-size: 4;
    }
    p { margin: 0; overflow-wrap: anywhere; color: #a9adb5; font-size: 0.9rem; }
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
  // An open socket keeps a page out of the back/forward cache of some browsers.
  addEventListener("pagehide", disconnect);
  addEventListener("pageshow", ({ persisted }) => persisted && listen());
  listen();
})();
