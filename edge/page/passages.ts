/** Tokens coloured by how much of them came from the reader's own documents, and the passages behind each. */
import type { ChameleonBlock, SourcedToken } from "../../shared/contracts/responses.ts";
import type { NamedText } from "./documents.ts";
import { make, roveFocus } from "./elements.ts";
import { count, percent, readableToken, shareStepOf } from "./words.ts";

type Passage = SourcedToken["passages"][number];

/** Bytes after a passage that are shown with it. */
const bytesAfter = 60;

/** The documents that were uploaded from this page: the API tells places in them, not their text. */
export class UploadedTexts {
  readonly #texts = new Map<string, Map<string, Uint8Array>>();

  add(adapter: string, documents: readonly NamedText[]): void {
    const texts = this.#texts.get(adapter) ?? new Map<string, Uint8Array>();
    for (const { name, text } of documents) texts.set(name, new TextEncoder().encode(text));
    this.#texts.set(adapter, texts);
  }

  forget(adapter: string): void {
    this.#texts.delete(adapter);
  }

  /** A passage's words before its token, the token, and some words after it; null where its document is not here. */
  read({ adapter, document, start, end }: Passage, token: string): [string, string, string] | null {
    const bytes = this.#texts.get(adapter)?.get(document);
    if (!bytes) return null;
    // A passage may begin or end within a character.
    const text = (from: number, to: number) =>
      new TextDecoder().decode(bytes.subarray(from, to)).replaceAll("\uFFFD", "");
    const passage = text(start, end);
    const before = passage.endsWith(token) ? passage.slice(0, passage.length - token.length) : passage;
    return [before, passage.slice(before.length), text(end, end + bytesAfter)];
  }
}

/** Part of an answer as it came: mostly one token. */
export type SourcedPiece = SourcedToken;

/** The pieces of one chunk. Tokens that make one character together are one piece, as is text without tokens. */
export function sourcedPieces(text: string, sources: readonly SourcedToken[]): SourcedPiece[] {
  if (sources.map(({ token }) => token).join("") === text) return [...sources];
  const share = Math.max(0, ...sources.map((one) => one.share));
  return text === "" ? [] : [{ token: text, share, passages: sources.flatMap(({ passages }) => passages) }];
}

/** Makes tokens that tell where they came from: by pointer, by tap, and by arrow keys. */
export class SourcedTokens {
  readonly #container: HTMLElement;
  readonly #pieces = new WeakMap<Element, SourcedPiece>();

  /** `onTell` is called with the piece that the reader points at. */
  constructor(container: HTMLElement, onTell: (piece: SourcedPiece) => void) {
    this.#container = container;
    roveFocus(container, ".token");
    const tell = ({ target }: Event) => {
      const piece = this.#pieces.get(target as Element);
      if (!piece) return;
      container.querySelector("[aria-current]")?.removeAttribute("aria-current");
      (target as Element).setAttribute("aria-current", "true");
      onTell(piece);
    };
    container.addEventListener("pointerover", tell);
    container.addEventListener("focusin", tell);
    container.addEventListener("click", ({ target }) => {
      if (this.#pieces.has(target as Element)) (target as HTMLElement).focus();
    });
  }

  /** A token for within the container; it is the tab stop if it is the first. */
  make(piece: SourcedPiece): HTMLElement {
    const isFirst = this.#container.querySelector(".token") === null;
    const token = make(
      "span",
      { class: "token", role: "button", tabindex: isFirst ? 0 : -1, "data-share": shareStepOf(piece.share) },
      piece.token,
    );
    if (piece.token.trim() === "") token.setAttribute("aria-label", readableToken(piece.token));
    this.#pieces.set(token, piece);
    return token;
  }
}

/** Shows in `panel` what spoke for a piece. */
export function showPassages(panel: HTMLElement, { token, share, passages }: SourcedPiece, texts: UploadedTexts): void {
  const sentence =
    passages.length === 0
      ? "None of it came from your text: the model wrote it by itself."
      : `${percent(share)} of its probability came from your text, the most from ${passages.length === 1 ? "here" : "these places"}:`;
  const items = passages.map((passage) => {
    const read = texts.read(passage, token);
    const words = read
      ? make("blockquote", {}, `…${read[0]}`, make("mark", {}, read[1]), `${read[2]}…`)
      : make("p", { class: "quiet" }, `${placeOf(passage)}; uploaded earlier, so its words are not on this page`);
    const head = make("b", {}, passage.document);
    return make("li", {}, head, ` (${passage.adapter}): ${percent(passage.share)}`, words);
  });
  panel.replaceChildren(
    make("h3", {}, "Token ", make("code", {}, readableToken(token))),
    make("p", {}, sentence),
    make("ul", { class: "passages", "aria-label": count(items.length, "passage") }, ...items),
  );
}

/** Shows in `panel` what an answer had of the reader's text in its prompt. */
export function showLookedUp(panel: HTMLElement, retrieved: NonNullable<ChameleonBlock["retrieved"]>): void {
  const items = retrieved.map((passage) =>
    make("li", {}, make("b", {}, passage.document), ` (${passage.adapter}): ${placeOf(passage)}`),
  );
  const says = items.length > 0 ? "The model read this before it answered:" : "Your text has nothing to look up.";
  panel.replaceChildren(make("p", {}, says), make("ul", { class: "passages" }, ...items));
}

function placeOf({ start, end }: { start: number; end: number }): string {
  return `bytes ${start.toLocaleString("en")} to ${end.toLocaleString("en")}`;
}
