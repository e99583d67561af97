/** Retrieval puts passages of memories into the prompt: those nearest to the tokens `query` (gpu-backend/memory/retrieval.ts). */
import * as z from "zod";
import { limits } from "./limits.ts";

const count = z.int().min(0);
/** Token ids of text before or after a passage: at most an eighth of a passage's tokens. */
const framing = z.array(count).max(limits.passageTokens / 8);

export const retrievalSchema = z.strictObject({
  passages: z.int().min(1).max(limits.retrievedPassages),
  /** Maximum tokens to put into the prompt, `prefixIds` and `separatorIds` included. The last passage is cut to fit. */
  tokens: count,
  /** Range [start, end) of prompt tokens. The passages nearest to these tokens are retrieved. */
  query: z.tuple([count, count]),
  /**
   * Index of the prompt token before which `prefixIds` go, and then the passages, each followed by `separatorIds`. The nearest passage is
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
