import { setTimeout } from "node:timers/promises";
import { createCommand, runCommand } from "../../command-line.ts";
import { readHubConfig, useProxyOfEnvironment } from "../../config.ts";
import { commandProgress, interruptionSignal } from "../../training/progress.ts";
import { importModel } from "./import-model.ts";

const progress = commandProgress();

const signal = interruptionSignal(() => performance.now());

const program = createCommand(
  "import",
  "Bring another base and make it ready to be served",
  ["chameleon import distilgpt2"],
  "HF_ENDPOINT, HF_TOKEN, HTTPS_PROXY and NO_PROXY are honoured.",
)
  .argument("<model>", "a GGUF file, a folder as Hugging Face lays it out, or a hub id")
  .option("--out <folder>", "where it goes (default: .cache/models/<model>, or the folder itself)")
  .option("--revision <name>", "branch, tag or commit on the hub")
  .option("--json", "print folder and model as JSON")
  .action(async (source: string, flags: { out?: string; revision?: string; json?: boolean }) => {
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
    if (flags.json) {
      process.stdout.write(`${JSON.stringify({ folder, model: manifest.model, keptArtifacts })}\n`);
      return;
    }
    const { hiddenSize, vocabularySize, contextTokens } = manifest.model;
    const kept = keptArtifacts
      ? `; its artifacts (${manifest.centroids.length} centroids) were there and are kept`
      : "";
    console.log(`${folder}: hidden size ${hiddenSize}, vocabulary ${vocabularySize}, context ${contextTokens}${kept}
serve it        MODEL_DIR=${folder} npm start
train adapters  npm run train -- --model ${folder} --corpus ./my-texts --out ${folder}/artifacts`);
  });

await runCommand(program);
