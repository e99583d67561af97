/** `POST /v1/embeddings` as OpenAI has it. Not here: what an embedding is (`shared/math/assignment.ts`). */
import { z } from "zod";
import { absentAs, modelField, promptField, userField } from "./fields.ts";
import { limits } from "./limits.ts";

export const embeddingsRequestSchema = z.object({
  model: modelField("Any that is served: an adapter changes no embedding"),
  input: promptField("input", limits.embeddingInputs, "Texts or token ids"),
  dimensions: absentAs(z.int().min(1), null, "Keeps so many of the leading dimensions; absent, all"),
  encoding_format: absentAs(z.enum(["float", "base64"]), "float" as const, "`base64` is that of little-endian float32"),
  user: userField,
});
