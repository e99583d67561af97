/**
 * Retrieval: passages of an answer's memories that are put into its prompt. They are the passages whose mean hidden state is nearest to
 * the mean hidden state of the prompt tokens `query`. Every backend finds the same ones. Not here: the search (gpu-backend/memory/retrieval.ts).
 */
import * as z from "zod";
import { limits } from "./limits.ts";

const count = z.int().min(0);
/** Token ids of text before or after a passage. Their number is at most an eighth of a passage's. */
const framing = z.array(count).max(limits.passageTokens / 8);

export const retrievalSchema = z.strictObject({
  passages: z.int().min(1).max(limits.retrievedPassages),
  /** Most tokens to put into the prompt, `prefixIds` and `separatorIds` included. The last passage is cut to fit. */
  tokens: count,
  /** Prompt tokens [start, end) whose mean hidden state is the query. */
  query: z.tuple([count, count]),
  /** Before this prompt token come `prefixIds` and, nearest first, each passage with `separatorIds`. A small model heeds the first passage most. */
  at: count,
  prefixIds: framing,
  separatorIds: framing,
});

export const passageFields = {
  /** Name of the document. */
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
