/** Which domains the base was itself trained on: what its model card says, in the front matter that model hubs use. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parse } from "yaml";
import { z } from "zod";

const frontMatter = z.object({ datasets: z.array(z.string()).default([]) });

/** `datasets` of MODEL_CARD.md or README.md in the model's folder; none where neither names any. */
export async function knownDomains(modelDirectory: string): Promise<string[]> {
  for (const name of ["MODEL_CARD.md", "README.md"]) {
    const card = await readFile(join(modelDirectory, name), "utf8").catch(() => "");
    const yaml = /^---\n(.*?)\n---\n/s.exec(card)?.[1];
    if (yaml) return frontMatter.parse(parse(yaml)).datasets;
  }
  return [];
}
