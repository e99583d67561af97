/** The map of domains, the prompt's own dot on it, and the same as a table. */
import type { Catalog } from "./catalog.ts";
import { type Centroid, domainOf } from "./domains.ts";
import { button, byId, make, roveFocus, table } from "./elements.ts";
import { between, type Point, spread } from "./map-layout.ts";
import type { Reading } from "./preview.ts";
import { count, perplexityBesideBase, perplexityChange, perplexityInterval } from "./words.ts";

export interface DomainMapParts {
  catalog: Catalog;
  onExample(prompt: string): void;
  onAnswerer(id: string): void;
}

/** A dot: a domain, or an adapter of the key's own beside the domain it resembles. */
interface Spot {
  id: string;
  name: string;
  position: readonly [number, number];
  share: number;
  className: string;
}

/** Height of the prompt's dot with its name, which stands above what it resembles, in pixels. */
const promptPx = 28;
/** From the middle of a domain's box up to its disc. */
const discPx = 16;
/** Above this, names are shown only where a dot is chosen. */
const maxNames = 28;

export class DomainMap {
  readonly #parts: DomainMapParts;
  readonly #map = byId("map", HTMLElement);
  readonly #table = byId("map-table", HTMLElement);
  #reading: Reading | null = null;
  #points = new Map<string, Point>();
  #prompt: HTMLElement | null = null;

  constructor(parts: DomainMapParts) {
    this.#parts = parts;
    roveFocus(this.#map, ".dot");
    // On a narrow screen the table is moved sideways, also by the arrow keys.
    this.#table.tabIndex = 0;
    parts.catalog.onChange(() => this.#draw());
    new ResizeObserver(() => this.#draw()).observe(this.#map);
  }

  /** Shows where a prompt falls. */
  place(reading: Reading | null): void {
    this.#reading = reading;
    this.#placePrompt();
    this.#drawTable();
  }

  #spots(): Spot[] {
    const { centroids, usableAdapters } = this.#parts.catalog;
    const largest = Math.max(...centroids.map(({ size }) => size), 1);
    const domains = centroids.map((one) => ({
      id: one.id,
      name: domainOf(one).name,
      position: one.position,
      share: one.size / largest,
      className: one.auto_off ? "off" : "domain",
    }));
    const own = usableAdapters.flatMap(({ name, centroid }) => {
      const nearest = centroids.find(({ id }) => id === centroid?.nearest);
      return nearest ? [{ id: name, name, position: nearest.position, share: 0.2, className: "own" }] : [];
    });
    return [...domains, ...own];
  }

  #draw(): void {
    const { width, height } = this.#map.getBoundingClientRect();
    const spots = this.#spots();
    if (width === 0 || spots.length === 0) return;
    const hasNames = spots.length <= maxNames;
    const columns = Math.max(2, Math.floor(width / 118));
    const box = hasNames ? { width: Math.min(132, width / columns), height: 74 } : { width: 26, height: 26 };
    const room = { width, height: height - promptPx, box };
    const points = spread(
      spots.map(({ position }) => position),
      room,
    ).map(({ x, y }) => ({ x, y: y + promptPx }));
    this.#points = new Map(spots.map(({ id }, i) => [id, points[i]]));
    const dots = spots.map((spot, i) => this.#dot(spot, points[i], hasNames, i === 0));
    this.#prompt = make("div", { class: "prompt-dot", hidden: true }, make("span", {}, "Your prompt"));
    this.#map.replaceChildren(...dots, this.#prompt);
    this.#placePrompt();
    this.#drawTable();
  }

  #dot({ id, name, share, className }: Spot, at: Point, hasName: boolean, isFirst: boolean): HTMLElement {
    const disc = make("i", { "aria-hidden": "true" });
    disc.style.setProperty("--size", `${(8 + 12 * Math.sqrt(share)).toFixed(1)}px`);
    const label = make("span", hasName ? {} : { class: "unseen" }, name);
    const dot = make(
      "button",
      { type: "button", class: `dot ${className}`, "data-id": id, tabindex: isFirst ? 0 : -1 },
      disc,
      label,
    );
    dot.style.left = `${at.x}px`;
    dot.style.top = `${at.y}px`;
    const show = () => this.#describe(id);
    dot.addEventListener("focus", show);
    dot.addEventListener("click", show);
    return dot;
  }

  #placePrompt(): void {
    const near = this.#reading?.near ?? [];
    const at = between(
      near.flatMap(({ id, similarity }) => {
        const point = this.#points.get(id);
        return point ? [{ similarity, at: point }] : [];
      }),
    );
    for (const dot of this.#map.querySelectorAll<HTMLElement>(".dot")) {
      dot.classList.toggle("near", dot.dataset.id === near[0]?.id);
    }
    if (!this.#prompt) return;
    this.#prompt.hidden = at === null;
    if (!at) return;
    this.#prompt.style.left = `${at.x}px`;
    this.#prompt.style.top = `${at.y - discPx}px`;
  }

  #describe(id: string): void {
    const { catalog, onExample, onAnswerer } = this.#parts;
    for (const dot of this.#map.querySelectorAll<HTMLElement>(".dot")) {
      if (dot.dataset.id === id) dot.setAttribute("aria-current", "true");
      else dot.removeAttribute("aria-current");
    }
    const centroid = catalog.centroids.find((one) => one.id === id);
    const name = catalog.nameOf(id);
    const example = centroid ? domainOf(centroid).example : null;
    byId("map-details", HTMLElement).replaceChildren(
      make("h3", {}, name),
      make(
        "p",
        {},
        centroid
          ? `${centroidText(centroid)} ${gainText(centroid)}`
          : "An adapter of your own, beside the domain that its examples resemble.",
      ),
      make(
        "p",
        { class: "actions" },
        ...(example ? [button("Try an example", () => onExample(example))] : []),
        button("Answer with this alone", () => onAnswerer(id)),
      ),
    );
  }

  #drawTable(): void {
    const similarity = new Map(this.#reading?.near.map((one) => [one.id, one.similarity]));
    const { catalog } = this.#parts;
    const { centroids, usableAdapters } = catalog;
    const rows = centroids
      .toSorted((a, b) => (similarity.get(b.id) ?? -1) - (similarity.get(a.id) ?? -1))
      .map((one) => [
        domainOf(one).name,
        one.id,
        wordsOf(one),
        one.size.toLocaleString("en"),
        similarity.get(one.id)?.toFixed(2).replace("-", "−") ?? "–",
        one.auto_off ? "off: it did not help" : one.gain ? perplexityChange(one.gain.nats) : "not measured",
      ]);
    const own = usableAdapters.map(({ name, centroid, gain }) => {
      const words = `your own, beside ${centroid ? catalog.nameOf(centroid.nearest) : "none"}`;
      return [name, name, words, "–", "–", gain ? perplexityChange(gain.nats) : "the base"];
    });
    const heads = ["Domain", "In requests", "Typical tokens", "Pieces of training text", likenessHead, gainHead];
    this.#table.replaceChildren(table("Domains, the most like the prompt first", heads, [...rows, ...own]));
  }
}

const likenessHead = "Likeness to the prompt, at most 1";
const gainHead = "Its adapter on unseen text, beside the base";

const wordsOf = ({ label }: Centroid) =>
  label
    .map((piece) => piece.trim())
    .filter(Boolean)
    .join(", ");

function centroidText(centroid: Centroid): string {
  return `Typical tokens: ${wordsOf(centroid)}. ${count(centroid.size, "piece")} of the training text fell here.`;
}

function gainText({ gain, auto_off }: Centroid): string {
  if (auto_off) return "Its adapter did not help when it was measured, so it is off: the base answers.";
  if (!gain) return "What its adapter gains has not been measured.";
  const interval = perplexityInterval(gain.ci95);
  return `On ${count(gain.tokens, "token")} that training did not see, its adapter has ${perplexityBesideBase(gain.nats)} (95% interval: ${interval}).`;
}
