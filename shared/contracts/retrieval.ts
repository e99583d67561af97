/**
 * Passages of an answer's memories in its prompt: of all of them those whose mean state is nearest to that of some of the prompt's
 * tokens. They are a function of the memories' bytes and the prompt, so that every backend finds the same. Not here: how (gpu-backend/memory/retrieval.ts).
 */
import * as z from "zod";
import { limits } from "./limits.ts";

const count = z.int().min(0);
/** Text around passages, as token ids: at most an eighth of what a passage takes. */
const framing = z.array(count).max(limits.passageTokens / 8);

export const retrievalSchema = z.strictObject({
  /** Number of passages. */
  passages: z.int().min(1).max(limits.retrievedPassages),
  /** Most tokens that come into the prompt, `prefixIds` and `separatorIds` counted; the last passage is cut to what is left. */
  tokens: count,
  /** The prompt's tokens [start, end) whose mean state is looked for. */
  query: z.tuple([count, count]),
  /** Passages come before this prompt token: `prefixIds`, then each passage with `separatorIds`, the nearest first: a small model goes by what it reads first. */
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
