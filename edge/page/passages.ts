/** The facts about a token: its probabilities, and the passages of the user's text that it came from. */
import type { ChameleonBlock, SourcedToken } from "../../shared/contracts/responses.ts";
import type { NamedText } from "./documents.ts";
import { make, table } from "./elements.ts";
import { differenceOf, type Piece } from "./pieces.ts";
import { count, likelier, percent, probabilityText, readableToken } from "./words.ts";

type Passage = SourcedToken["passages"][number];

const bytesAfter = 60;

/** Texts of documents that were uploaded from this page. The API gives only the places of passages, not their texts. */
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

  /** A passage's text before its last token, that token, and some later text; null if the document was not uploaded from this page. */
  read({ adapter, document, start, end }: Passage, token: string): [string, string, string] | null {
    const bytes = this.#texts.get(adapter)?.get(document);
    if (!bytes) return null;
    // A passage may begin or end within a character, which then decodes to U+FFFD.
    const text = (from: number, to: number) =>
      new TextDecoder().decode(bytes.subarray(from, to)).replaceAll("\uFFFD", "");
    const passage = text(start, end);
    const before = passage.endsWith(token) ? passage.slice(0, passage.length - token.length) : passage;
    return [before, passage.slice(before.length), text(end, end + bytesAfter)];
  }
}

export function tokenNodes(piece: Piece, texts: UploadedTexts): Node[] {
  const { text, source, adapted, base } = piece;
  const heading = make("h3", {}, "Token ", make("code", {}, readableToken(text)));
  const difference = differenceOf(piece);
  // If only the base wrote the token, only the base's probability is known.
  const both = `${adapted === null ? "Base" : `Adapted ${probabilityText(adapted)}, base`} ${probabilityText(base)}`;
  const compared = difference === null ? "" : `: ${likelier(difference, "the adapters", "the base")}`;
  const sentence = make("p", { class: "token-sentence" }, `${both}${compared}.`);
  if (!source) return [heading, sentence];
  const { share, passages } = source;
  const origin =
    passages.length === 0
      ? "None of it came from documents: the model wrote it by itself."
      : `${percent(share)} of its probability came from documents, the most from ${passages.length === 1 ? "here" : "these places"}:`;
  const items = passages.map((passage) => {
    const read = texts.read(passage, text);
    const words = read
      ? make("blockquote", {}, `…${read[0]}`, make("mark", {}, read[1]), `${read[2]}…`)
      : make("p", { class: "quiet" }, `${placeOf(passage)}; its words are not on this page`);
    const head = make("b", {}, passage.document);
    return make("li", {}, head, ` (${passage.adapter}): ${percent(passage.share)}`, words);
  });
  const list = make("ul", { class: "passages", "aria-label": count(items.length, "passage") }, ...items);
  return [heading, make("p", {}, origin), list, ...(difference === null ? [] : [sentence])];
}

export function alternativesOf({ alternatives }: Piece): Node[] {
  if (alternatives.length === 0) return [];
  const rows = alternatives.map(([token, logprob]) => [
    make("code", {}, readableToken(token)),
    probabilityText(logprob),
  ]);
  return [table("The five likeliest tokens here", ["Token", "Probability"], rows)];
}

export function lookedUpNodes(retrieved: NonNullable<ChameleonBlock["retrieved"]>): Node[] {
  const items = retrieved.map((passage) =>
    make("li", {}, make("b", {}, passage.document), ` (${passage.adapter}): ${placeOf(passage)}`),
  );
  const says = items.length > 0 ? "The model read this before it answered:" : "Your text has nothing to look up.";
  return [make("p", {}, says), make("ul", { class: "passages" }, ...items)];
}

function placeOf({ start, end }: { start: number; end: number }): string {
  return `bytes ${start.toLocaleString("en")} to ${end.toLocaleString("en")}`;
}
