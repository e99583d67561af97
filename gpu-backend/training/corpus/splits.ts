/** Splits documents into training, validation (choices) and test (measurements) by the hash of each document. */
import { createHash } from "node:crypto";

export const splits = ["train", "validation", "test"] as const;
export type Split = (typeof splits)[number];

const heldOutFraction = 0.1;

/**
 * One split per document of a corpus: in the order of the documents' hashes the first tenth is test, the second validation,
 * at least one each. Neither a seed nor the order of the documents matters. Throws an Error below three documents.
 */
export function splitDocuments(corpusName: string, documents: readonly { text: string }[]): Split[] {
  if (documents.length < 3) {
    throw new Error(`corpus ${corpusName} has ${documents.length} document(s); training, validation and test need 3`);
  }
  const heldOut = Math.max(1, Math.round(documents.length * heldOutFraction));
  const hashes = documents.map(({ text }) => createHash("sha256").update(text).digest("hex"));
  const order = [...hashes.keys()].sort((i, j) => (hashes[i] < hashes[j] ? -1 : 1));
  const result = new Array<Split>(documents.length).fill("train");
  for (const document of order.slice(0, heldOut)) result[document] = "test";
  for (const document of order.slice(heldOut, 2 * heldOut)) result[document] = "validation";
  return result;
}
