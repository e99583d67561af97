/** The domains of the training text, those most like the prompt first, and what each one's adapter gains. */
import type { Catalog } from "./catalog.ts";
import { type Centroid, domainOf } from "./domains.ts";
import { button, byId, roveFocus, table } from "./elements.ts";
import type { Reading } from "./preview.ts";
import { perplexityChange } from "./words.ts";

const heads = [
  "Domain",
  "In requests",
  "Typical tokens",
  "Pieces of training text",
  "Likeness to the prompt, at most 1",
  "Its adapter on unseen text, beside the base",
];

export class DomainTable {
  readonly #catalog: Catalog;
  readonly #onAnswerer: (id: string) => void;
  readonly #table = byId("domains", HTMLElement);
  #reading: Reading | null = null;

  constructor({ catalog, onAnswerer }: { catalog: Catalog; onAnswerer(id: string): void }) {
    this.#catalog = catalog;
    this.#onAnswerer = onAnswerer;
    // On a narrow screen the table is moved sideways, also by the arrow keys.
    this.#table.tabIndex = 0;
    roveFocus(this.#table, "button");
    catalog.onChange(() => this.#draw());
  }

  /** Sorts the domains by their likeness to a prompt. */
  show(reading: Reading | null): void {
    this.#reading = reading;
    this.#draw();
  }

  #draw(): void {
    const similarity = new Map(this.#reading?.near.map((one) => [one.id, one.similarity]));
    const rows = this.#catalog.centroids
      .toSorted((a, b) => (similarity.get(b.id) ?? -1) - (similarity.get(a.id) ?? -1))
      .map((one, row) => [
        button(domainOf(one).name, () => this.#onAnswerer(one.id), {
          title: "Answer with this alone",
          tabindex: row === 0 ? 0 : -1,
        }),
        one.id,
        wordsOf(one),
        one.size.toLocaleString("en"),
        similarity.get(one.id)?.toFixed(2).replace("-", "−") ?? "–",
        one.auto_off ? "off: it did not help" : one.gain ? perplexityChange(one.gain.nats) : "not measured",
      ]);
    this.#table.replaceChildren(table("Domains, the most like the prompt first", heads, rows));
  }
}

const wordsOf = ({ label }: Centroid) =>
  label
    .map((piece) => piece.trim())
    .filter(Boolean)
    .join(", ");
