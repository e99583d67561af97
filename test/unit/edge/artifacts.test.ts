import { expect, test } from "vitest";
import { loadArtifacts } from "../../../edge/artifacts/artifacts.ts";
import { edgeModelFiles } from "../../support/edge-model.ts";

test.each<[string, string, object, RegExp]>([
  ["another vocabulary", "model", { vocabularySize: 1000 }, /264.*1000/],
  ["other dimensions", "embedding", { dimensions: 64 }, /4.*64/],
  ["a stop id that is a piece of text", "model", { stopIds: [261, 5] }, /tokenizer.*stop id 5 is no special/],
])("a manifest that names %s is refused by its files", async (_, part, change, message) => {
  const files = await edgeModelFiles();
  const manifest = JSON.parse(new TextDecoder().decode(files.get("manifest.json")));
  Object.assign(manifest[part], change);
  files.set("manifest.json", new TextEncoder().encode(JSON.stringify(manifest)));
  await expect(loadArtifacts(async (name) => files.get(name)!)).rejects.toThrow(message);
});
