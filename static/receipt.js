// Builds receipts. components/page/src/receipt.rs writes the same elements as
// HTML: change both, or neither.

/** What `toLocaleString` gives, made once. */
const FORMAT = new Intl.DateTimeFormat(undefined, {
  year: "numeric",
  month: "numeric",
  day: "numeric",
  hour: "numeric",
  minute: "numeric",
  second: "numeric",
});

/** An order as a list item. Its text becomes text, never markup. */
export function receipt({ id, timestamp, destination, status, items = [], notes }) {
  const time = element("time", { datetime: timestamp });
  localise(time);
  return element(
    "li",
    { class: "receipt", "data-id": id, "data-status": status },
    element(
      "article",
      { class: "paper", "aria-labelledby": `order-${id}` },
      element("p", { class: "brand" }, "Socket Burger"),
      time,
      element("h2", { id: `order-${id}` }, `Order #: ${id}`),
      element("p", { class: "destination" }, destination),
      element(
        "ul",
        { class: "items" },
        ...items.map(({ name, substitutions }) =>
          element("li", {}, `1 ${name}`, ...lines("substitutions", substitutions)),
        ),
      ),
      ...lines("notes", notes),
    ),
  );
}

/** Shows a `<time>` in the reader's own zone and format. */
export function localise(time) {
  const date = new Date(time.dateTime);
  time.textContent = Number.isNaN(date.valueOf()) ? time.dateTime : FORMAT.format(date);
}

/** An empty list is no element at all. */
function lines(name, texts = []) {
  if (texts.length === 0) return [];
  return [element("ul", { class: name }, ...texts.map((text) => element("li", {}, text)))];
}

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
