/** Requests of `POST /v1/classify`. edge/plan/labels.ts encodes the labels. */
import * as z from "zod";
import { type ChatMessage, messagesSchema, readMessages } from "./chat.ts";
import { absentAs, describe, kindOf, listOf, refuser } from "./fields.ts";
import { asGeneration, generationFields } from "./generation.ts";
import { limits } from "./limits.ts";

/** A text, or a conversation whose next answer is the label. */
export type ClassifyInput = string | ChatMessage[];

const text = { type: "string", minLength: 1, maxLength: limits.bodyBytes };
const several = (items: object) => ({ type: "array", items, minItems: 1, maxItems: limits.classifyInputs });

const label = z
  .string()
  .min(1)
  .max(limits.classifyLabelCharacters)
  .refine((text) => text.trim() !== "", {
    error: ({ input }) => `a label is ${describe(input)}; it must not be spaces only`,
  });
const labelList = listOf("labels", label, { min: 2, max: limits.classifyLabels })
  .refine((labels) => new Set(labels).size === labels.length, { error: "labels holds a label twice" })
  .meta({ uniqueItems: true });

export const classifyRequestSchema = z
  .object({
    model: generationFields.model,
    input: z
      .unknown()
      .transform(readInputs)
      .meta({
        description:
          "Texts, or conversations whose next answer is the label. The base is asked which label fits a text, in a prompt that lists them; an adapter of your own with examples continues a text as it is",
        anyOf: [text, several(text), messagesSchema, several(messagesSchema)],
      }),
    labels: absentAs(
      labelList,
      null,
      "As they would continue the prompt: for an adapter of your own with their leading space, if its examples have one. Absent, those of its examples",
    ),
    user: generationFields.user,
    chameleon: generationFields.chameleon,
  })
  .transform(({ input, labels, ...request }) => {
    // Penalties are off, because a model's default penalties would change the labels' probabilities.
    const sampling = {
      temperature: 0,
      ignore_eos: true,
      presence_penalty: 0,
      frequency_penalty: 0,
      repetition_penalty: 1,
    };
    const generation = {
      ...request,
      n: 1,
      seed: 0,
      echo: false,
      prompt_logprobs: null,
      max_tokens: 1,
      logprobs: limits.classifyBranches,
    };
    return { input, labels, generation: asGeneration({ ...generation, ...sampling }) };
  });

function readInputs(value: unknown, context: z.RefinementCtx): ClassifyInput[] {
  const refuse = refuser(context, value);
  if (typeof value !== "string" && !Array.isArray(value)) {
    return refuse(`input is ${kindOf(value)}; it must be a text, a conversation, or a list of either`);
  }
  const isSingle = typeof value === "string" || kindOf(value[0]) === "an object";
  const inputs: unknown[] = isSingle ? [value] : value;
  if (inputs.length === 0) return refuse("input is an empty list; at least one is needed");
  if (inputs.length > limits.classifyInputs) {
    return refuse(`input has ${inputs.length} entries, the maximum is ${limits.classifyInputs}`);
  }
  const kind = typeof inputs[0];
  return inputs.map((input, i) => {
    const at = isSingle ? "input" : `input[${i}]`;
    if (typeof input !== kind)
      return refuse(`${at} is ${kindOf(input)}, input[0] is ${kindOf(inputs[0])}; all must be alike`);
    if (input === "") return refuse(`${at} is empty`);
    return typeof input === "string" ? input : readMessages(input, context, at);
  });
}
