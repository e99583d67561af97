/** Answers of `POST /v1/classify`. The edge imports only types, to keep schemas out of its bundle. */
import * as z from "zod";
import { chameleonBlockSchema, usageSchema } from "./responses.ts";

const probability = z.number().min(0).max(1);
export const classifyResponseSchema = z.object({
  object: z.literal("list"),
  data: z.array(
    z.object({
      index: z.int(),
      label: z.string().describe("The likeliest"),
      margin: probability.describe("Its probability less that of the next"),
      probabilities: z.record(z.string(), probability).describe("Of each label; they add up to 1"),
      chameleon: chameleonBlockSchema.partial().optional(),
    }),
  ),
  model: z.string(),
  usage: usageSchema,
  system_fingerprint: z.string(),
});

export type ClassifyResponse = z.infer<typeof classifyResponseSchema>;
