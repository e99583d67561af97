/** `POST /v1/embeddings` as OpenAI has it. Not here: what an embedding is (`shared/math/assignment.ts`). */
import { z } from "zod";
import { absentAs, readPromptList } from "./fields.ts";
import { limits } from "./limits.ts";

export const embeddingsRequestSchema = z.object({
  /** Any that is served: an adapter changes no embedding. */
  model: absentAs(z.string(), undefined),
  /** One text, several, or their token ids. */
  input: z
    .unknown()
    .optional()
    .transform((value, context) => readPromptList(value, context, "input", limits.embeddingInputs)),
  /** Keeps so many of the leading dimensions. */
  dimensions: absentAs(z.int().min(1), null),
  /** `base64` is that of little-endian float32. */
  encoding_format: absentAs(z.enum(["float", "base64"]), "float" as const),
  user: absentAs(z.string(), null),
});

export interface EmbeddingsResponse {
  object: "list";
  data: { object: "embedding"; index: number; embedding: number[] | string }[];
  model: string;
  usage: { prompt_tokens: number; total_tokens: number };
}
