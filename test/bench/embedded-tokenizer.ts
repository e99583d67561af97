import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { readTokenizer } from "../../gpu-backend/engine/artifacts.ts";
import { parseManifest } from "../../shared/artifacts/manifest.ts";
import { embeddedBase } from "../support/embedded-base.ts";

export async function embeddedTokenizer() {
  const artifacts = join(embeddedBase, "artifacts");
  return readTokenizer(artifacts, parseManifest(await readFile(join(artifacts, "manifest.json"), "utf8")));
}
