/** Which documents train, which choose (validation) and which measure (test). */
import { Random } from "../random.ts";
import { streams } from "../streams.ts";

export const splits = ["train", "validation", "test"] as const;
export type Split = (typeof splits)[number];

const heldOutFraction = 0.1;

/**
 * One split per document of a corpus: a tenth for test, a tenth for validation, at least one each, by a seeded shuffle.
 * Throws an Error below three documents.
 */
export function splitDocuments(corpusName: string, documents: number, seed: number): Split[] {
  if (documents < 3) {
    throw new Error(`corpus ${corpusName} has ${documents} document(s); training, validation and test need 3`);
  }
  const heldOut = Math.max(1, Math.round(documents * heldOutFraction));
  const order = new Random(seed, streams.split).shuffled(Array.from({ length: documents }, (_, i) => i));
  const result = new Array<Split>(documents).fill("train");
  for (const document of order.slice(0, heldOut)) result[document] = "test";
  for (const document of order.slice(heldOut, 2 * heldOut)) result[document] = "validation";
  return result;
}
