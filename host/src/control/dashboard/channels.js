// The channels, what is published to one of them, and publishing.

import { events, getJson, path, publish } from "./api.js";
import { attempt, byId, cell, count, element, rowHeader, setText, updateList } from "./dom.js";

const MAX_ITEMS = 200;
const RECENT_ITEMS = 50;
const RETRY_MS = 2000;

/** Returns the kind and the text of each form of an item. */
function forms({ formats = {} }) {
  const shown = [];
  const message = formats["ws-message"];
  const stream = formats["http-stream"];
  const response = formats["http-response"];
  if (message) {
    const { action = "send", code, reason = "" } = message;
    if (action === "send") shown.push(["message", content(message)]);
    else shown.push([action, [code, reason].filter(Boolean).join(" ")]);
  }
  if (stream) shown.push([stream.action && stream.action !== "send" ? `stream ${stream.action}` : "stream", content(stream)]);
  if (response) shown.push(["response", `${response.code ?? response.action ?? ""} ${response.body ?? ""}`.trim()]);
  return shown;
}

const content = (form) => form.content ?? (form["content-bin"] !== undefined ? `${form["content-bin"]} (base64)` : "");

export class Channels {
  #stop;

  constructor() {
    byId("publish").addEventListener("submit", (event) => {
      event.preventDefault();
      attempt(() => this.#publish());
    });
    byId("follow").addEventListener("click", () => (this.#stop ? this.unfollow() : this.#follow()));
  }

  async update() {
    const prefix = encodeURIComponent(byId("channels-prefix").value);
    const { channels, total } = await getJson(`/channels/?prefix=${prefix}`);
    setText(byId("channels-total"), total > channels.length ? `${channels.length} of ${count(total)}` : count(total));
    byId("channels-empty").hidden = total > 0;
    updateList(
      byId("channels"),
      channels,
      ({ channel }) => channel,
      ({ channel }) => {
        const open = element("button", { type: "button", className: "link", textContent: channel });
        open.addEventListener("click", () => {
          byId("publish-channel").value = channel;
          this.#follow();
        });
        return element("tr", {}, rowHeader(open), cell("number"), cell("number wide"), cell("wide wrap code"));
      },
      (row, { subscribers, history, "last-id": lastId }) => {
        const [, subscriberCell, historyCell, idCell] = row.children;
        setText(subscriberCell, count(subscribers));
        setText(historyCell, history ? count(history.items) : "–");
        setText(idCell, lastId ?? "–");
      },
    );
  }

  async #publish() {
    const channel = byId("publish-channel").value;
    const { subscribers = {}, missing = 0 } = await publish(channel, byId("publish-text").value);
    const reached = subscribers[channel];
    if (reached === undefined) return "Published.";
    const unknown = missing > 0 ? ` ${missing} hosts have not answered.` : "";
    return `Published to ${count(reached)} ${reached === 1 ? "subscriber" : "subscribers"}.${unknown}`;
  }

  /** Shows the items of the channel in the form. */
  async #follow() {
    const channel = byId("publish-channel").value;
    if (!channel) return byId("publish-channel").focus();
    this.unfollow();
    const stop = new AbortController();
    this.#stop = stop;
    byId("follow").setAttribute("aria-pressed", "true");
    setText(byId("items-channel"), `of ${channel}`);
    setText(byId("items-empty"), "Nothing has been published yet.");
    let recent = RECENT_ITEMS;
    while (!stop.signal.aborted) {
      const show = (kind, data) => this.#show(kind, data);
      try {
        byId("items").replaceChildren();
        await events(`${path("channels", channel, "events")}?recent=${recent}`, stop.signal, show);
      } catch (error) {
        if (stop.signal.aborted) return;
        await attempt(() => Promise.reject(error));
        // Without a token, the page asks for one first.
        if (error.status === 401) return this.unfollow();
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }

  unfollow() {
    this.#stop?.abort();
    this.#stop = undefined;
    byId("follow").setAttribute("aria-pressed", "false");
  }

  #show(event, data) {
    const items = byId("items");
    const lines = event === "dropped" ? [["dropped", `${data.dropped} items, since this page is too slow`]] : forms(data);
    for (const [kind, text] of lines) {
      const id = data.id === undefined ? "" : ` ${data.id}`;
      items.append(element("div", {}, element("span", { className: "kind", textContent: `${kind}${id}` }), text));
    }
    while (items.children.length > MAX_ITEMS) items.firstElementChild.remove();
    items.scrollTop = items.scrollHeight;
  }
}
