import * as z from "zod";
import { passageFields } from "./retrieval.ts";

const share = z.number().min(0).max(1);
export const sourcedTokenSchema = z.object({
  token: z.string(),
  share: share.describe("Part of the token's probability that came from memories"),
  passages: z
    .array(
      z.object({
        adapter: z.string().describe("The adapter of your own whose document it is, or a centroid"),
        document: z.string().describe("Of public text: the corpus and the document's number"),
        start: z.int().describe("Bytes [start, end) of the document: some words before the token, and the token"),
        end: z.int(),
        share: share.describe("Part of the token's probability that came from this passage"),
      }),
    )
    .describe("The passages that spoke for the token, the most of its probability first"),
});

export const citedPassagesSchema = z
  .array(z.object({ adapter: z.string().describe("The adapter of your own that has the document"), ...passageFields }))
  .describe("With `retrieve`: the passages in the prompt, nearest first");
