/** The documents of a memory: what is known of each, and what becomes of all of them. Pure. */
import { contractVersion } from "../../shared/contracts/inference.ts";
import { gunzippedText } from "./sealed-store.ts";

/** What is known of a document besides its text. */
export interface DocumentRecord {
  name: string;
  tokens: number;
  /** Of its text in UTF-8. */
  bytes: number;
  /** Sum of the prompt embeddings of its windows, [P] float32 in base64. */
  embedding: string;
}

/** A document as the Worker has read it; `name` null: it gets one (`firstFree`). */
export interface NewDocument {
  name: string | null;
  text: string;
  tokens: number;
  embedding: string;
}

/** The body of the call that brings documents to a backend. `texts`: JSON of them, compressed. Throws if they are gone. */
export async function memoryBody(manifestHash: string, texts: Uint8Array | null): Promise<Uint8Array> {
  if (texts === null) throw new Error("the documents are gone");
  const head = JSON.stringify({ version: contractVersion, manifestHash }).slice(0, -1);
  return new TextEncoder().encode(`${head},"documents":${await gunzippedText(texts)}}`);
}

/** A name for a document without one. Not a number alone: many strings of digits in one JSON body are refused. */
export function firstFree(names: ReadonlySet<string>): string {
  let number = names.size + 1;
  while (names.has(`text-${number}`)) number++;
  return `text-${number}`;
}

/** The mean of the documents' embeddings, weighed by their windows, of length 1. */
export function centroidOf(records: readonly DocumentRecord[]): number[] {
  const vectors = records.map(({ embedding }) => new Float32Array(Uint8Array.fromBase64(embedding).buffer));
  const sum = new Float64Array(vectors[0].length);
  for (const vector of vectors)
    vector.forEach((value, p) => {
      sum[p] += value;
    });
  const length = Math.hypot(...sum);
  return [...sum].map((value) => (length > 0 ? value / length : 0));
}
