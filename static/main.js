// The page's plan: which part hears which.

import { Announcer } from "./announcer.js";
import { Connection } from "./connection.js";
import { Feed } from "./feed.js";
import { Orders } from "./orders.js";
import { Rail } from "./rail.js";
import { showStatus } from "./status.js";

/** How many receipts the rail holds; components/page/src/page.rs renders as many. */
const RAIL = 12;
/** How long, in ms, the order service may take to answer. */
const PATIENCE = 10_000;

const orders = new Orders(RAIL);
const rail = new Rail(document.getElementById("rail"));
const announcer = new Announcer(document.getElementById("announcement"));
const connection = new Connection(() => new WebSocket(socketUrl()));
const feed = new Feed(connection, orders, fetchOrders);

orders.fill(rail.adopt());
feed.addEventListener("change", ({ detail: added }) => {
  rail.show(orders.list());
  announcer.announce(added);
});
showStatus(document.getElementById("status"), connection);
addEventListener("online", () => connection.wake());
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) connection.wake();
});
connection.start();

function socketUrl() {
  const url = new URL("/api/ws", location);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url;
}

async function fetchOrders(after) {
  const url = after === null ? "/api/orders" : `/api/orders?after=${after}`;
  const response = await fetch(url, { signal: AbortSignal.timeout(PATIENCE), cache: "no-store" });
  if (!response.ok) throw new Error(`${url} answered ${response.status}`);
  return (await response.json()).orders;
}
