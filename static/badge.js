// Shows the number of waiting tickets in the title and on the icon.

const ticketSvg = (count) =>
  `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">` +
  `<path d="M3 0h26v29l-3.2 3-3.3-3-3.2 3-3.3-3-3.2 3-3.3-3-3.2 3L3 29z" fill="#fff" stroke="#888" stroke-width=".5"/>` +
  `<path d="M3 0h26v5H3z" fill="#ad0f16"/>` +
  `<text x="16" y="24" font-family="sans-serif" font-size="${count > 9 ? 19 : 23}"` +
  ` font-weight="bold" text-anchor="middle" fill="#16130f">${count > 99 ? "∞" : count}</text></svg>`;

export class Badge {
  #title = document.title;
  #link;
  #plainIcon;
  #count = null;

  constructor(link) {
    this.#link = link;
    this.#plainIcon = link.href;
  }

  show(count) {
    if (count === this.#count) return;
    this.#count = count;
    document.title = count > 0 ? `(${count}) ${this.#title}` : this.#title;
    const svg = encodeURIComponent(ticketSvg(count));
    this.#link.href = count > 0 ? `data:image/svg+xml,${svg}` : this.#plainIcon;
  }
}
