/**
 * Adapters that PEFT made are no models, and none is served beside the base: an own adapter changes the hidden state before the
 * head, so that all tenants share one trunk. A change of the head [V, R] is no such change, either: its nearest one in D directions
 * loses what it gained. So the refusal says what one changes, and how a model is made of it. Pure.
 */
import { z } from "zod";

export const peftConfigFile = "adapter_config.json";

const modules = z.union([z.string().transform((pattern) => [pattern]), z.array(z.string())]).nullish();
const configSchema = z.object({
  peft_type: z.string(),
  base_model_name_or_path: z.string().nullish(),
  target_modules: modules,
  modules_to_save: modules,
});

/** What parts of a model hold, by the names of their modules in the families that are computed. */
const parts: [RegExp, string][] = [
  [/[qkvo]_proj|attn|all-linear/, "attention"],
  [/(gate|up|down)_proj|c_fc|mlp|all-linear/, "feed-forward layers"],
  [/embed_tokens|wte|wpe/, "token embeddings"],
  [/lm_head/, "the head over the vocabulary"],
];
const shownNames = 8;

/** Why the adapter is refused whose `adapter_config.json` this is: an Error of one line. */
export function peftRefusal(text: string, where: string): Error {
  const { data } = configSchema.safeParse(parsed(text));
  if (!data)
    return new Error(`${where}: ${peftConfigFile} is none of PEFT's: peft_type or a list of modules is no text`);
  const names = [...(data.target_modules ?? []), ...(data.modules_to_save ?? [])];
  const shown = names.slice(0, shownNames).map((name) => JSON.stringify(name.slice(0, 60)));
  if (names.length > shownNames) shown.push("…");
  const touched = parts.filter(([pattern]) => names.some((name) => pattern.test(name))).map(([, what]) => what);
  const changes = names.length === 0 ? "modules that it does not name" : shown.join(", ");
  const base = data.base_model_name_or_path
    ? JSON.stringify(data.base_model_name_or_path.slice(0, 80))
    : "a base that it does not name";
  return new Error(
    `${where} is a PEFT adapter (${JSON.stringify(data.peft_type.slice(0, 40))}) of ${base} and changes ${changes}${touched.length > 0 ? ` (${touched.join(", ")})` : ""}, which all tenants share here; merge it (merge_and_unload, save_pretrained) and import the model that comes out`,
  );
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
