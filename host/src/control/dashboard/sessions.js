// The open WebSockets, and what can be done to one of them.

import { getJson, path, request } from "./api.js";
import { attempt, byId, bytes, cell, count, duration, element, rowHeader, setText, updateList } from "./dom.js";

const PAGE_SIZE = 50;
const MAX_LIMIT = 1000;

export class Sessions {
  #limit = PAGE_SIZE;
  #recipient;

  constructor() {
    const dialog = byId("send");
    byId("sessions-more").addEventListener("click", () => {
      this.#limit = Math.min(this.#limit * 2, MAX_LIMIT);
      attempt(() => this.update());
    });
    byId("send-cancel").addEventListener("click", () => dialog.close());
    dialog.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      attempt(async () => {
        const headers = { "content-type": "text/plain; charset=utf-8" };
        const body = byId("send-text").value;
        await request(path("sessions", this.#recipient, "send"), { method: "POST", headers, body });
        dialog.close();
        return `Sent to ${this.#recipient}.`;
      });
    });
  }

  async update() {
    const { sessions, total } = await getJson(`/sessions/?limit=${this.#limit}`);
    setText(byId("sessions-total"), total > sessions.length ? `${sessions.length} of ${count(total)}` : count(total));
    byId("sessions-empty").hidden = sessions.length > 0;
    byId("sessions-more").hidden = total <= sessions.length || this.#limit === MAX_LIMIT;
    updateList(
      byId("sessions"),
      sessions,
      ({ connection }) => connection,
      (session) => this.#row(session),
      (row, { age, queued, state }) => {
        const [, , , ageCell, queueCell] = row.children;
        setText(ageCell, state === "open" ? duration(age) : state);
        setText(queueCell, queued === 0 ? "–" : bytes(queued));
      },
    );
  }

  #row({ connection, path: route, address }) {
    const short = connection.slice(0, 8);
    const button = (name, act) => {
      const created = element("button", { type: "button", textContent: name, ariaLabel: `${name} ${short}` });
      created.addEventListener("click", () => attempt(act));
      return created;
    };
    const actions = element(
      "div",
      { className: "actions" },
      button("Send", () => this.#openDialog(connection)),
      button("Refresh", async () => {
        await request(path("sessions", connection, "refresh"), { method: "POST" });
        return `The component of ${short} gets a request.`;
      }),
      button("Close", async () => {
        await request(path("sessions", connection), { method: "DELETE" });
        return `Closed ${short}.`;
      }),
    );
    const id = element("code", { textContent: short, title: connection });
    return element(
      "tr",
      {},
      rowHeader(id),
      cell("wrap", route),
      cell("wide", address),
      cell("number"),
      cell("number wide"),
      cell("", actions),
    );
  }

  #openDialog(connection) {
    this.#recipient = connection;
    byId("send-connection").textContent = connection.slice(0, 8);
    byId("send").showModal();
    byId("send-text").focus();
  }
}
