/**
 * Text as tokens: coloured by what adapters and base think of them, or by what the reader's own text gave; each to be
 * chosen by pointer, tap or arrow keys. All tokens of a text are one tab stop.
 */
import { make, roveFocus } from "./elements.ts";
import { differenceOf, type Piece } from "./pieces.ts";
import { likelier, readableToken, shareStepOf, stepOf } from "./words.ts";

/** A piece in a text. */
export interface Place {
  choice: number;
  index: number;
}

interface ShownChoice {
  element: HTMLElement;
  pieces: Piece[];
}

export class TokenText {
  readonly #container: HTMLElement;
  readonly #begin: (choice: number) => HTMLElement;
  readonly #choices = new Map<number, ShownChoice>();

  /**
   * `begin` makes the element in `container` that takes a choice's tokens. `onTell` is called with the place that is chosen, or that the
   * pointer is over if its piece has a source.
   */
  constructor(
    container: HTMLElement,
    begin: (choice: number) => HTMLElement,
    onTell: (place: Place, isChosen: boolean) => void,
  ) {
    this.#container = container;
    this.#begin = begin;
    roveFocus(container, ".token");
    const tell = ({ target, type }: Event) => {
      const token = (target as Element).closest<HTMLElement>(".token");
      if (!token || (type === "pointerover" && !token.dataset.share)) return;
      container.querySelector("[aria-current]")?.removeAttribute("aria-current");
      token.setAttribute("aria-current", "true");
      onTell({ choice: Number(token.dataset.choice), index: Number(token.dataset.index) }, type !== "pointerover");
    };
    container.addEventListener("pointerover", tell);
    container.addEventListener("focusin", tell);
    container.addEventListener("click", ({ target }) => {
      (target as Element).closest<HTMLElement>(".token")?.focus();
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
    this.#container.replaceChildren();
  }

  add(choice: number, piece: Piece): void {
    const { element, pieces } = this.#choices.get(choice) ?? this.#start(choice);
    const isFirst = this.#container.querySelector(".token") === null;
    const attributes = { class: "token", role: "button", tabindex: isFirst ? 0 : -1, "data-index": pieces.length };
    const token = make("span", { ...attributes, "data-choice": choice }, piece.text);
    if (piece.text.trim() === "") token.setAttribute("aria-label", readableToken(piece.text));
    pieces.push(piece);
    element.append(token);
    paint(token, piece);
  }

  /** Colours what has become known. */
  repaint(choice: number): void {
    const shown = this.#choices.get(choice);
    for (const [i, token] of shown?.element.querySelectorAll<HTMLElement>(".token").entries() ?? []) {
      paint(token, shown!.pieces[i]);
    }
  }

  /** Forgets a choice's pieces from `index` on. */
  cut(choice: number, index: number): void {
    const shown = this.#choices.get(choice);
    for (const token of [...(shown?.element.querySelectorAll(".token") ?? [])].slice(index)) token.remove();
    shown?.pieces.splice(index);
  }

  #start(choice: number): ShownChoice {
    const shown = { element: this.#begin(choice), pieces: [] };
    this.#choices.set(choice, shown);
    return shown;
  }
}

function paint(token: HTMLElement, piece: Piece): void {
  const difference = differenceOf(piece);
  if (difference !== null) token.title = likelier(difference, "the adapters", "the base");
  if (piece.source) token.dataset.share = shareStepOf(piece.source.share);
  else if (difference !== null) token.dataset.step = stepOf(difference);
}
