// FsFile: an open file.
import { assert, bytes, fresh, pattern, readAll, rejection, row, same, text } from "./lib.mjs";

async function withFile(fs, content, work) {
  const path = fresh();
  await fs.writeFile(path, content);
  const file = await fs.open(path, { read: true, write: true });
  try {
    await work(file, path);
  } finally {
    await file.close();
  }
}

export default [
  row("FsFile.read", async ({ fs }) =>
    await withFile(fs, bytes("hello"), async (file) => {
      const buffer = new Uint8Array(3);
      assert.equal(await file.read(buffer), 3);
      assert.equal(text(buffer), "hel");
      assert.equal(await file.read(buffer), 2);
      assert.equal(await file.read(buffer), null);
    })),
  row("FsFile.write", async ({ fs }) =>
    await withFile(fs, bytes("abcdef"), async (file, path) => {
      assert.equal(await file.write(bytes("XY")), 2);
      assert.equal(await fs.readTextFile(path), "XYcdef");
    })),
  row("FsFile.seek", async ({ fs }) =>
    await withFile(fs, bytes("0123456789"), async (file) => {
      assert.equal(await file.seek(2n, 0), 2);
      assert.equal(await file.seek(3, 1), 5);
      const buffer = new Uint8Array(1);
      await file.read(buffer);
      assert.equal(text(buffer), "5");
      assert.equal(await file.seek(-1, 2), 9);
      await rejection(file.seek(-100, 0), "Error", "EINVAL");
    })),
  row("FsFile.readable", async ({ fs }) =>
    await withFile(fs, pattern(500_000), async (file) => same(await readAll(file.readable), pattern(500_000)))),
  row("FsFile.writable", async ({ fs }) => {
    const path = fresh();
    const file = await fs.create(path);
    await new Blob([pattern(500_000)]).stream().pipeTo(file.writable);
    same(await fs.readFile(path), pattern(500_000));
  }),
  row("FsFile.stat", async ({ fs }) =>
    await withFile(fs, bytes("abc"), async (file, path) => {
      const [open, named] = [await file.stat(), await fs.stat(path)];
      assert.deepEqual([open.size, open.ino, open.isFile], [3, named.ino, true]);
    })),
  row("FsFile.truncate", async ({ fs }) =>
    await withFile(fs, bytes("abcdef"), async (file, path) => {
      await file.truncate(2);
      assert.equal(await fs.readTextFile(path), "ab");
      await file.truncate();
      assert.equal((await file.stat()).size, 0);
    })),
  row("FsFile.sync", async ({ fs }) => await withFile(fs, bytes("x"), async (file) => assert.equal(await file.sync(), undefined))),
  row("FsFile.syncData", async ({ fs }) => await withFile(fs, bytes("x"), async (file) => assert.equal(await file.syncData(), undefined))),
  row("FsFile.utime", async ({ fs }) =>
    await withFile(fs, bytes("x"), async (file) => {
      await file.utime(new Date("2001-02-03T04:05:06.789Z"), new Date("2010-11-12T13:14:15.016Z"));
      assert.equal((await file.stat()).mtime.toISOString(), "2010-11-12T13:14:15.016Z");
    })),
  row("FsFile.lock", async ({ fs }) =>
    await withFile(fs, bytes("x"), async (file, path) => {
      await file.lock(true);
      const other = await fs.open(path, { read: true, write: true });
      let has = false;
      const waiting = other.lock(true).then(() => has = true);
      await new Promise((resolve) => setTimeout(resolve, 500));
      assert.equal(has, false, "two exclusive locks at once");
      await file.unlock();
      await waiting;
      await other.close();
    })),
  row("FsFile.unlock", async ({ fs }) =>
    await withFile(fs, bytes("x"), async (file, path) => {
      const other = await fs.open(path);
      await file.lock(false);
      await other.lock(false);
      await other.unlock();
      await file.unlock();
      await other.lock(true);
      await other.close();
    })),
  row("FsFile.close", async ({ fs }) => {
    const path = fresh();
    const file = await fs.create(path);
    await file.close();
    await rejection(file.write(bytes("x")), "BadResource");
  }),
];
