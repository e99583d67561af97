/** The import command line: a GPT-2 from the hub or a folder, ready to be served. Decides nothing itself. */
import { setTimeout } from "node:timers/promises";
import { Command } from "commander";
import { readHubConfig, useProxyOfEnvironment } from "../../config.ts";
import { createProgress } from "../../training/progress.ts";
import { importModel } from "./import-model.ts";

const progress = createProgress(process.stderr, () => performance.now());

/** Ctrl-C: end; what is on the disk stays, and the same command goes on from there. */
const interruption = new AbortController();
class Interrupted extends Error {}
for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => interruption.abort(new Interrupted()));
const { signal } = interruption;

const program = new Command("import")
  .description("Brings a GPT-2 from the Hugging Face hub, or a folder, and makes it ready to be served.")
  .argument("<model>", "gpt2, distilgpt2, gpt2-medium, any id on the hub, or a folder")
  .option("--out <folder>", "where it goes (default: .cache/models/<model>, or the folder itself)")
  .option("--revision <name>", "branch, tag or commit on the hub")
  .addHelpText("after", "\nHF_ENDPOINT, HF_TOKEN, HTTPS_PROXY and NO_PROXY are honoured.")
  .action(async (source: string, flags: { out?: string; revision?: string }) => {
    useProxyOfEnvironment();
    const { folder, manifest, keptArtifacts } = await importModel(
      { source, out: flags.out ?? null, revision: flags.revision ?? null },
      {
        ...readHubConfig(),
        fetch,
        wait: (ms) => setTimeout(ms, undefined, { signal }).catch(() => signal.throwIfAborted()),
        now: () => new Date(),
        note: (line) => progress.note(line),
        signal,
      },
      progress,
    );
    const { layers, hiddenSize, vocabularySize, contextTokens } = manifest.model;
    const kept = keptArtifacts
      ? `; its artifacts (${manifest.centroids.length} centroids) were there and are kept`
      : "";
    console.log(`${folder}: ${layers} layers of ${hiddenSize}, vocabulary ${vocabularySize}, context ${contextTokens}${kept}
serve it        MODEL_DIR=${folder} npm start
train adapters  npm run train -- --model ${folder} --corpus ./my-texts --out ${folder}/artifacts`);
  });

try {
  await program.parseAsync();
} catch (error) {
  progress.end();
  if (signal.aborted) {
    console.error("interrupted; the same command goes on from here");
    process.exitCode = 130;
  } else {
    console.error(`error: ${error instanceof Error ? error.message : error}`);
    process.exitCode = 1;
  }
}
