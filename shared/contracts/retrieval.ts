/** Retrieval puts passages of memories into the prompt (gpu-backend/memory/retrieval.ts). */
import * as z from "zod";
import { limits } from "./limits.ts";

const count = z.int().min(0);
/** Text around a passage, as token ids: at most an eighth of a passage. */
const framing = z.array(count).max(limits.passageTokens / 8);

export const retrievalSchema = z.strictObject({
  passages: z.int().min(1).max(limits.retrievedPassages),
  /** Maximum tokens to add to the prompt. The last passage is cut to fit. */
  tokens: count,
  /** Range [start, end) of prompt tokens, to which the nearest passages are retrieved. */
  query: z.tuple([count, count]),
  /**
   * Index of the prompt token before which `prefixIds` and the passages go. `separatorIds` follow each passage. The nearest passage is
   * first, because a small model heeds it most.
   */
  at: count,
  prefixIds: framing,
  separatorIds: framing,
});

export const passageFields = {
  document: z.string(),
  start: z.int().describe("Bytes [start, end) of the document's text"),
  end: z.int(),
  tokens: z.int(),
  similarity: z.number().describe("Cosine of the passage's mean state and the prompt's"),
};
/** `memory` is an index in the request's `memories`. */
export const retrievedPassageSchema = z.object({ memory: z.int(), ...passageFields });
export type Retrieval = z.infer<typeof retrievalSchema>;
export type RetrievedPassage = z.infer<typeof retrievedPassageSchema>;
