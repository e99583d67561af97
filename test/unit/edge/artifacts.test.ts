import { expect, test } from "vitest";
import { loadArtifacts } from "../../../edge/artifacts/artifacts.ts";
import { edgeModel, edgeModelFiles } from "../../support/edge-model.ts";

type Files = Awaited<ReturnType<typeof edgeModelFiles>>;
const reading = (files: Files) => async (name: string) => files.get(name) ?? Promise.reject(new Error(`no ${name}`));

function flipLastBit(files: Files, name: string): void {
  const bytes = files.get(name)!;
  bytes[bytes.length - 1] ^= 1;
}

function editManifest(files: Files, edit: (manifest: Record<string, Record<string, unknown>>) => void): void {
  const manifest = JSON.parse(new TextDecoder().decode(files.get("manifest.json")));
  edit(manifest);
  files.set("manifest.json", new TextEncoder().encode(JSON.stringify(manifest)));
}

test("reads manifest, tokenizer and table, and knows the manifest by its hash", async () => {
  const { manifest, manifestHash, tokenizer, table, centroids } = await loadArtifacts(reading(await edgeModelFiles()));
  expect(manifest.model.servedAs).toBe("gpt2");
  expect(manifestHash).toMatch(/^[0-9a-f]{64}$/);
  expect(tokenizer.decode(tokenizer.encode("the é"))).toBe("the é");
  expect([table.vocabularySize, centroids.count]).toEqual([edgeModel.vocabularySize, 3]);
});

const changed = (part: string, change: object) => (files: Files) =>
  editManifest(files, (manifest) => Object.assign(part === "" ? manifest : manifest[part], change));
const damages: [string, (files: Files) => void, RegExp][] = [
  ["a changed table", (files) => flipLastBit(files, "edge-table.safetensors"), /edge-table.*SHA-256/],
  ["a changed tokenizer", (files) => flipLastBit(files, "tokenizer.safetensors"), /tokenizer.*SHA-256/],
  ["a missing table", (files) => void files.delete("edge-table.safetensors"), /no edge-table/],
  ["another vocabulary", changed("model", { vocabularySize: 1000 }), /264.*1000/],
  ["other dimensions", changed("embedding", { dimensions: 64 }), /4.*64/],
  ["a stop id that is a piece of text", changed("model", { stopIds: [261, 5] }), /tokenizer.*stop id 5 is no special/],
  ["a chat template that is no Jinja", changed("model", { chatTemplate: "{% if %}" }), /manifest\.json: model\.chatT/],
  ["a manifest of another format", changed("", { format: 2 }), /format/],
];
test.each(damages)("refuses %s", async (_, damage, message) => {
  const files = await edgeModelFiles();
  damage(files);
  await expect(loadArtifacts(reading(files))).rejects.toThrow(message);
});
