// How many tickets wait, where one sees it while looking at something else: in
// the title and on the icon.

/** The number on the icon, in the icon's own coordinates (32 × 32). */
const MARK = (count) =>
  `<circle cx="21" cy="21" r="11" fill="#c8161d" stroke="#fff" stroke-width="1.5"/>` +
  `<text x="21" y="26.5" font-family="sans-serif" font-size="${count > 9 ? 13 : 16}"` +
  ` font-weight="bold" text-anchor="middle" fill="#fff">${count > 99 ? "99" : count}</text>`;

export class Badge {
  #title;
  #link;
  #plain;
  #icon;
  #count = null;

  /** `link` is the page's icon, an SVG; `fetchText` promises the text at an address. */
  constructor(link, fetchText) {
    this.#title = document.title;
    this.#link = link;
    this.#plain = link.href;
    this.#icon = fetchText(link.href).catch(() => null);
  }

  /** Shows how many wait. */
  async show(count) {
    if (count === this.#count) return;
    this.#count = count;
    document.title = count > 0 ? `(${count}) ${this.#title}` : this.#title;
    const svg = await this.#icon;
    // While it was fetched, another number may have come.
    if (svg === null || count !== this.#count) return;
    const marked = svg.replace("</svg>", `${MARK(count)}</svg>`);
    this.#link.href = count > 0 ? `data:image/svg+xml,${encodeURIComponent(marked)}` : this.#plain;
  }
}
