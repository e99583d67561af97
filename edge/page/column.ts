/** One side's answer: its tokens, coloured by what the two sides think of them, each to be chosen by pointer or keyboard. */
import { make, roveFocus } from "./elements.ts";
import type { Piece } from "./pieces.ts";
import { likelier, readableToken, stepOf } from "./words.ts";

export type Side = "base" | "adapted";

/** A piece in an answer. */
export interface Place {
  column: Column;
  choice: number;
  index: number;
}

interface ShownChoice {
  element: HTMLElement;
  pieces: Piece[];
}

export class Column {
  readonly side: Side;
  readonly #element: HTMLElement;
  readonly #onSelect: (place: Place) => void;
  readonly #choices = new Map<number, ShownChoice>();
  #selected: HTMLElement | null = null;

  constructor(element: HTMLElement, side: Side, onSelect: (place: Place) => void) {
    this.side = side;
    this.#element = element;
    this.#onSelect = onSelect;
    roveFocus(element, ".token");
    const select = (event: Event) => this.#select(event.target as HTMLElement);
    element.addEventListener("focusin", select);
    element.addEventListener("click", (event) => {
      const token = event.target as HTMLElement;
      if (token.matches(".token")) token.focus();
    });
  }

  get choices(): number[] {
    return [...this.#choices.keys()].sort((a, b) => a - b);
  }

  pieces(choice: number): readonly Piece[] {
    return this.#choices.get(choice)?.pieces ?? [];
  }

  text(choice: number): string {
    return this.pieces(choice)
      .map(({ text }) => text)
      .join("");
  }

  clear(): void {
    this.#choices.clear();
    this.#element.replaceChildren();
  }

  add(choice: number, piece: Piece): void {
    const { element, pieces } = this.#choices.get(choice) ?? this.#begin(choice);
    const isFirst = this.#element.querySelector(".token") === null;
    const attributes = { class: "token", role: "button", tabindex: isFirst ? 0 : -1, "data-index": pieces.length };
    const token = make("span", { ...attributes, "data-choice": choice }, piece.text);
    if (piece.text.trim() === "") token.setAttribute("aria-label", readableToken(piece.text));
    pieces.push(piece);
    element.append(token);
    this.#paint(token, piece);
  }

  /** Colours what has become known of the other side. */
  repaint(choice: number): void {
    const shown = this.#choices.get(choice);
    for (const [i, token] of shown?.element.querySelectorAll<HTMLElement>(".token").entries() ?? []) {
      this.#paint(token, shown!.pieces[i]);
    }
  }

  /** Forgets a choice's pieces from `index` on. */
  cut(choice: number, index: number): void {
    const shown = this.#choices.get(choice);
    for (const token of [...(shown?.element.querySelectorAll(".token") ?? [])].slice(index)) token.remove();
    shown?.pieces.splice(index);
  }

  /** Adapted minus base, in log-probability; null where one is not known. */
  difference({ logprob, other }: Piece): number | null {
    if (logprob === null || other === null) return null;
    return this.side === "adapted" ? logprob - other : other - logprob;
  }

  #begin(choice: number): ShownChoice {
    const shown = { element: make("p", { class: "answer" }), pieces: [] };
    if (choice > 0) this.#element.append(make("h4", {}, `Choice ${choice + 1}`));
    this.#element.append(shown.element);
    this.#choices.set(choice, shown);
    return shown;
  }

  #paint(token: HTMLElement, piece: Piece): void {
    const difference = this.difference(piece);
    if (difference === null) return;
    token.dataset.step = stepOf(difference);
    token.title = likelier(difference, "the adapters", "the base");
  }

  #select(token: HTMLElement): void {
    if (!token.matches(".token")) return;
    this.#selected?.removeAttribute("aria-current");
    token.setAttribute("aria-current", "true");
    this.#selected = token;
    this.#onSelect({ column: this, choice: Number(token.dataset.choice), index: Number(token.dataset.index) });
  }
}
