/** Cuts documents into windows of tokens. Pure. */
import { createHash } from "node:crypto";
import { setImmediate } from "node:timers/promises";
import type { Documents } from "../../../shared/contracts/inference.ts";
import { limits } from "../../../shared/contracts/limits.ts";
import { ServiceError } from "../../../shared/errors.ts";
import { partCharacters, partsOf } from "../../../shared/tokenizer/text-parts.ts";
import type { Tokenizer } from "../../../shared/tokenizer/tokenizer.ts";
import type { Excerpt } from "../../memory/centroid-memories.ts";
import type { DocumentTokens } from "../../memory/memory.ts";

export interface EncodedDocument extends DocumentTokens {
  /** SHA-256 of the token ids. Documents of the same hash have the same keys. */
  hash: Uint8Array;
}

export type DocumentTokenizer = Pick<Tokenizer, "encode" | "textStart" | "textPieceOf">;

/** Throws a ServiceError for more than `limits.memoryTokens` tokens. */
export async function encodeDocuments(tokenizer: DocumentTokenizer, documents: Documents): Promise<EncodedDocument[]> {
  const encoded: EncodedDocument[] = [];
  let total = 0;
  let unyielded = 0;
  for (const { name, text } of documents) {
    const ids: number[] = [...tokenizer.textStart];
    for (const part of partsOf(text)) {
      for (const id of tokenizer.encode(part, limits.memoryTokens)) ids.push(id);
      if (total + ids.length > limits.memoryTokens) {
        const message = `The documents have more than ${limits.memoryTokens} tokens, the maximum of one memory.`;
        throw new ServiceError("invalid_request", message, { param: "documents" });
      }
      unyielded += part.length;
      if (unyielded < partCharacters) continue;
      unyielded = 0;
      await setImmediate();
    }
    total += ids.length;
    encoded.push(
      encodedDocument({ name, ids: Int32Array.from(ids), offset: 0 }, (id) => tokenizer.textPieceOf(id).length),
    );
  }
  if (encoded.some(({ ids }) => ids.length > 1)) return encoded;
  const message = `None of the ${encoded.length} documents has two tokens, so that one could follow another.`;
  throw new ServiceError("invalid_request", message, { param: "documents" });
}

/** `offset`: byte offset of the first token in the document's text. */
export function encodedDocument({ name, ids, offset }: Excerpt, lengthOf: (id: number) => number): EncodedDocument {
  let bytes = offset;
  const ends = ids.map((id) => {
    bytes += lengthOf(id);
    return bytes;
  });
  return { name, ids, ends, hash: createHash("sha256").update(ids).digest() };
}

/** Maximum tokens of a window, and how many of its tokens repeat the end of the previous window. */
const [windowTokens, overlapTokens] = [512, 64];

/** Tokens of a document that are computed as one prompt. */
export interface Window {
  document: number;
  /** Index among the windows of the document. */
  part: number;
  /** Tokens [start, end) are the prompt. The keys of tokens [from, end) are kept. */
  start: number;
  from: number;
  end: number;
}

/** A document of one token has no window. */
export function windowsOf(documentTokens: readonly number[], contextTokens: number): Window[] {
  // The engine needs room for another token after the prompt.
  const length = Math.min(windowTokens, contextTokens - 1);
  const overlap = Math.min(overlapTokens, Math.floor(length / 8));
  return documentTokens.flatMap((tokens, document) => {
    const windows: Window[] = [];
    for (let from = 0; from < tokens - 1; ) {
      const start = Math.max(0, from - overlap);
      const end = Math.min(start + length, tokens - 1);
      windows.push({ document, part: windows.length, start, from, end });
      from = end;
    }
    return windows;
  });
}
