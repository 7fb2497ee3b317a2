// sandbox.fs: every method of SandboxFs.
import { mkdir, readFile, readlink, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { assert, bytes, collect, fresh, pattern, readAll, rejection, row, same, text, withFolder } from "./lib.mjs";

const names = (entries) => entries.map(({ name }) => name).sort();

export default [
  row("fs.readFile", async ({ fs }) => {
    const path = fresh();
    await fs.writeFile(path, pattern(300_000));
    same(await fs.readFile(path), pattern(300_000));
    await rejection(fs.readFile(fresh()), "NotFound", "ENOENT");
    await rejection(fs.readFile("/home/app"), "Error", "EISDIR");
    await rejection(fs.readFile("/etc/shadow"), "PermissionDenied", "EACCES");
  }),
  row("fs.readFile(signal)", async (sandbox) => {
    const path = fresh();
    await sandbox.sh`mkfifo ${path}`;
    const abort = new AbortController();
    setTimeout(() => abort.abort(), 500);
    await rejection(sandbox.fs.readFile(path, { signal: abort.signal }), "AbortError");
  }),
  row("fs.readTextFile", async ({ fs }) => {
    const path = fresh();
    await fs.writeTextFile(path, "grüße 🐇\n");
    assert.equal(await fs.readTextFile(path), "grüße 🐇\n");
    assert.equal(text(await fs.readFile(path)), "grüße 🐇\n");
    await rejection(fs.readTextFile(fresh()), "NotFound", "ENOENT");
  }),
  row("fs.writeFile", async ({ fs }) => {
    const path = fresh();
    await fs.writeFile(path, bytes("long content"));
    await fs.writeFile(path, bytes("short"));
    assert.equal(await fs.readTextFile(path), "short");
    await fs.writeFile(path, bytes("er"), { append: true });
    assert.equal(await fs.readTextFile(path), "shorter");
    await rejection(fs.writeFile(path, bytes("x"), { createNew: true }), "AlreadyExists", "EEXIST");
    await rejection(fs.writeFile(fresh(), bytes("x"), { create: false }), "NotFound", "ENOENT");
    await rejection(fs.writeFile("/etc/no", bytes("x")), "PermissionDenied", "EACCES");
    await fs.writeFile(path, bytes("x"), { mode: 0o640 });
    assert.equal((await fs.stat(path)).mode & 0o7777, 0o640);
    await fs.writeFile(path, new Uint8Array(0));
    assert.equal((await fs.stat(path)).size, 0);
  }),
  row("fs.writeFile(stream)", async ({ fs }) => {
    const path = fresh();
    await fs.writeFile(path, new Blob([pattern(3_000_000)]).stream());
    same(await fs.readFile(path), pattern(3_000_000));
  }),
  row("fs.writeTextFile", async ({ fs }) => {
    const path = fresh();
    await fs.writeTextFile(path, "a");
    await fs.writeTextFile(path, "ß", { append: true });
    assert.equal(await fs.readTextFile(path), "aß");
    const stream = new ReadableStream({
      start(controller) {
        controller.enqueue("one ");
        controller.enqueue("two");
        controller.close();
      },
    });
    await fs.writeTextFile(path, stream);
    assert.equal(await fs.readTextFile(path), "one two");
  }),
  row("fs.readDir", async ({ fs }) => {
    const folder = fresh();
    await fs.mkdir(folder);
    await fs.writeTextFile(`${folder}/file`, "");
    await fs.mkdir(`${folder}/folder`);
    await fs.symlink("file", `${folder}/link`);
    const entries = await collect(fs.readDir(folder));
    assert.deepEqual(names(entries), ["file", "folder", "link"]);
    const kinds = Object.fromEntries(entries.map((e) => [e.name, [e.isFile, e.isDirectory, e.isSymlink]]));
    assert.deepEqual(kinds.file, [true, false, false]);
    assert.deepEqual(kinds.folder, [false, true, false]);
    assert.deepEqual(kinds.link, [false, false, true]);
    await rejection(collect(fs.readDir(fresh())), "NotFound", "ENOENT");
  }),
  row("fs.remove", async ({ fs }) => {
    const folder = fresh();
    await fs.mkdir(`${folder}/deep/er`, { recursive: true });
    await rejection(fs.remove(folder), "Error", "ENOTEMPTY");
    await fs.symlink(folder, `${folder}-link`);
    await fs.remove(`${folder}-link`);
    assert.equal((await fs.stat(folder)).isDirectory, true);
    await fs.remove(folder, { recursive: true });
    await rejection(fs.stat(folder), "NotFound", "ENOENT");
    await rejection(fs.remove(folder), "NotFound", "ENOENT");
  }),
  row("fs.mkdir", async ({ fs }) => {
    const folder = fresh();
    await fs.mkdir(folder, { mode: 0o700 });
    assert.equal((await fs.stat(folder)).mode & 0o777, 0o700);
    await rejection(fs.mkdir(folder), "AlreadyExists", "EEXIST");
    await fs.mkdir(folder, { recursive: true });
    await rejection(fs.mkdir(`${folder}/a/b`), "NotFound", "ENOENT");
    await fs.mkdir(`${folder}/a/b`, { recursive: true });
    assert.equal((await fs.stat(`${folder}/a/b`)).isDirectory, true);
  }),
  row("fs.rename", async ({ fs }) => {
    const [from, to] = [fresh(), fresh()];
    await fs.writeTextFile(from, "moved");
    await fs.rename(from, to);
    assert.equal(await fs.readTextFile(to), "moved");
    await rejection(fs.rename(from, to), "NotFound", "ENOENT");
  }),
  row("fs.stat", async ({ fs }) => {
    const path = fresh();
    const before = Date.now() - 120_000;
    await fs.writeTextFile(path, "12345", { mode: 0o604 });
    const info = await fs.stat(path);
    assert.deepEqual([info.isFile, info.isDirectory, info.isSymlink, info.size], [true, false, false, 5]);
    assert.equal(info.mode & 0o170000, 0o100000);
    assert.equal(info.mode & 0o7777, 0o604);
    assert.deepEqual([info.uid, info.gid, info.nlink], [1000, 1000, 1]);
    for (const time of [info.mtime, info.atime, info.birthtime, info.ctime]) {
      assert.ok(time instanceof Date && time.getTime() > before && time.getTime() < Date.now() + 120_000, String(time));
    }
    for (const number of [info.dev, info.ino, info.rdev, info.blksize, info.blocks]) assert.equal(typeof number, "number");
    const device = await fs.stat("/dev/null");
    assert.deepEqual([device.isCharDevice, device.isBlockDevice, device.isFifo, device.isSocket], [true, false, false, false]);
    await fs.symlink(path, `${path}-link`);
    assert.equal((await fs.stat(`${path}-link`)).ino, info.ino);
    await rejection(fs.stat(`${path}/below`), "Error", "ENOTDIR");
  }),
  row("fs.lstat", async ({ fs }) => {
    const path = fresh();
    await fs.symlink("nowhere", path);
    const info = await fs.lstat(path);
    assert.deepEqual([info.isSymlink, info.isFile], [true, false]);
    await rejection(fs.stat(path), "NotFound", "ENOENT");
  }),
  row("fs.chmod", async ({ fs }) => {
    const path = fresh();
    await fs.writeTextFile(path, "");
    await fs.chmod(path, 0o4711);
    assert.equal((await fs.stat(path)).mode & 0o7777, 0o4711);
    await rejection(fs.chmod("/etc/passwd", 0o777), "PermissionDenied", "EPERM");
  }),
  row("fs.chown", async ({ fs }) => {
    const path = fresh();
    await fs.writeTextFile(path, "");
    await fs.chown(path, 1000, null);
    await fs.chown(path, null, 1000);
    assert.equal((await fs.stat(path)).uid, 1000);
    await rejection(fs.chown(path, 0, null), "PermissionDenied", "EPERM");
  }),
  row("fs.copyFile", async ({ fs }) => {
    const [from, to] = [fresh(), fresh()];
    await fs.writeTextFile(from, "content", { mode: 0o600 });
    await fs.writeTextFile(to, "old and longer content");
    await fs.copyFile(from, to);
    assert.equal(await fs.readTextFile(to), "content");
    assert.equal((await fs.stat(to)).mode & 0o777, 0o600);
    await rejection(fs.copyFile(fresh(), to), "NotFound", "ENOENT");
  }),
  row("fs.walk", async ({ fs }) => {
    const root = fresh();
    await fs.mkdir(`${root}/a/b`, { recursive: true });
    await fs.writeTextFile(`${root}/one.ts`, "");
    await fs.writeTextFile(`${root}/a/two.js`, "");
    await fs.writeTextFile(`${root}/a/b/three.ts`, "");
    await fs.symlink("one.ts", `${root}/link`);
    const paths = async (options) => (await collect(fs.walk(root, options))).map(({ path }) => path.slice(root.length)).sort();
    assert.deepEqual(await paths(), ["", "/a", "/a/b", "/a/b/three.ts", "/a/two.js", "/link", "/one.ts"]);
    assert.deepEqual(await paths({ includeDirs: false, includeSymlinks: false }), ["/a/b/three.ts", "/a/two.js", "/one.ts"]);
    assert.deepEqual(await paths({ maxDepth: 1, includeFiles: false, includeSymlinks: false }), ["", "/a"]);
    assert.deepEqual(await paths({ exts: ["ts"], includeDirs: false, includeSymlinks: false }), ["/a/b/three.ts", "/one.ts"]);
    assert.deepEqual(await paths({ match: [/t[wh]/], includeDirs: false }), ["/a/b/three.ts", "/a/two.js"]);
    assert.deepEqual(await paths({ skip: [/\/a$/], includeSymlinks: false }), ["", "/one.ts"]);
    const first = (await collect(fs.walk(root, { maxDepth: 0 })))[0];
    assert.deepEqual([first.isDirectory, first.isFile, first.isSymlink, first.name], [true, false, false, root.split("/").pop()]);
    await rejection(collect(fs.walk(fresh())), "NotFound", "ENOENT");
  }),
  row("fs.expandGlob", async ({ fs }) => {
    const root = fresh();
    await fs.mkdir(`${root}/src/deep`, { recursive: true });
    for (const name of ["a.ts", "b.js", "src/c.ts", "src/deep/d.ts"]) await fs.writeTextFile(`${root}/${name}`, "");
    const paths = async (glob, options) => (await collect(fs.expandGlob(glob, { root, ...options }))).map(({ path }) => path.slice(root.length)).sort();
    assert.deepEqual(await paths("*.ts"), ["/a.ts"]);
    assert.deepEqual(await paths("**/*.ts"), ["/a.ts", "/src/c.ts", "/src/deep/d.ts"]);
    assert.deepEqual(await paths("**/*.ts", { exclude: ["src/deep"] }), ["/a.ts", "/src/c.ts"]);
    assert.deepEqual(await paths("*.{ts,js}"), ["/a.ts", "/b.js"]);
    assert.deepEqual(await paths("[ab].*"), ["/a.ts", "/b.js"]);
    assert.deepEqual(await paths("src/*", { includeDirs: false }), ["/src/c.ts"]);
    assert.deepEqual(await paths("*.TS"), []);
    assert.deepEqual(await paths("*.TS", { caseInsensitive: true }), ["/a.ts"]);
  }),
  row("fs.create", async ({ fs }) => {
    const path = fresh();
    const file = await fs.create(path);
    await file.write(bytes("created"));
    await file.seek(0, 0);
    const buffer = new Uint8Array(16);
    assert.equal(await file.read(buffer), 7);
    assert.equal(text(buffer.subarray(0, 7)), "created");
    await file.close();
    await (await fs.create(path)).close();
    assert.equal((await fs.stat(path)).size, 0);
  }),
  row("fs.open", async ({ fs }) => {
    const path = fresh();
    await rejection(fs.open(path), "NotFound", "ENOENT");
    const made = await fs.open(path, { write: true, createNew: true, mode: 0o600 });
    await made.write(bytes("0123456789"));
    await made.close();
    assert.equal((await fs.stat(path)).mode & 0o777, 0o600);
    await rejection(fs.open(path, { write: true, createNew: true }), "AlreadyExists", "EEXIST");
    const reading = await fs.open(path);
    assert.equal(await reading.read(new Uint8Array(4)), 4);
    await rejection(reading.write(bytes("x")), "BadResource", "EBADF");
    await reading.close();
    const appending = await fs.open(path, { append: true });
    await appending.write(bytes("ab"));
    await appending.close();
    assert.equal(await fs.readTextFile(path), "0123456789ab");
  }),
  row("fs.link", async ({ fs }) => {
    const [target, path] = [fresh(), fresh()];
    await fs.writeTextFile(target, "both");
    await fs.link(target, path);
    assert.equal(await fs.readTextFile(path), "both");
    assert.equal((await fs.stat(path)).nlink, 2);
    await rejection(fs.link(target, path), "AlreadyExists", "EEXIST");
  }),
  row("fs.symlink", async ({ fs }) => {
    const path = fresh();
    await fs.symlink("/etc/hostname", path);
    assert.ok((await fs.readTextFile(path)).length > 1);
    await rejection(fs.symlink("/etc/hostname", path), "AlreadyExists", "EEXIST");
  }),
  row("fs.readLink", async ({ fs }) => {
    const path = fresh();
    await fs.symlink("../some//where", path);
    assert.equal(await fs.readLink(path), "../some//where");
    await rejection(fs.readLink("/etc/passwd"), "Error", "EINVAL");
  }),
  row("fs.realPath", async ({ fs }) => {
    assert.equal(await fs.realPath("."), "/home/app");
    const path = fresh();
    await fs.symlink("/etc/../etc/passwd", path);
    assert.equal(await fs.realPath(path), "/etc/passwd");
    await rejection(fs.realPath(fresh()), "NotFound", "ENOENT");
  }),
  row("fs.makeTempDir", async ({ fs }) => {
    const path = await fs.makeTempDir({ prefix: "pre", suffix: "suf" });
    assert.match(path, /^\/tmp\/pre.+suf$/);
    const info = await fs.stat(path);
    assert.deepEqual([info.isDirectory, info.mode & 0o777], [true, 0o700]);
    assert.ok((await fs.makeTempDir({ dir: path })).startsWith(`${path}/`));
    await rejection(fs.makeTempDir({ dir: fresh() }), "NotFound", "ENOENT");
  }),
  row("fs.makeTempFile", async ({ fs }) => {
    const path = await fs.makeTempFile({ prefix: "pre", suffix: ".txt" });
    assert.match(path, /^\/tmp\/pre.+\.txt$/);
    const info = await fs.stat(path);
    assert.deepEqual([info.isFile, info.size, info.mode & 0o777], [true, 0, 0o600]);
    assert.notEqual(await fs.makeTempFile(), await fs.makeTempFile());
  }),
  row("fs.truncate", async ({ fs }) => {
    const path = fresh();
    await fs.writeTextFile(path, "12345");
    await fs.truncate(path, 3);
    assert.equal(await fs.readTextFile(path), "123");
    await fs.truncate(path, 5);
    same(await fs.readFile(path), bytes("123\0\0"));
    await fs.truncate(path);
    assert.equal((await fs.stat(path)).size, 0);
    await rejection(fs.truncate(fresh()), "NotFound", "ENOENT");
  }),
  row("fs.umask", async ({ fs }) => {
    const before = await fs.umask();
    assert.equal(await fs.umask(0o077), before);
    assert.equal(await fs.umask(), 0o077);
    const path = fresh();
    await (await fs.create(path)).close();
    assert.equal((await fs.stat(path)).mode & 0o777, 0o600);
    assert.equal(await fs.umask(before), 0o077);
  }),
  row("fs.utime", async ({ fs }) => {
    const path = fresh();
    await fs.writeTextFile(path, "");
    await fs.utime(path, new Date("2001-02-03T04:05:06.789Z"), new Date("2010-11-12T13:14:15.016Z"));
    const info = await fs.stat(path);
    assert.equal(info.atime.toISOString(), "2001-02-03T04:05:06.789Z");
    assert.equal(info.mtime.toISOString(), "2010-11-12T13:14:15.016Z");
    await rejection(fs.utime(fresh(), new Date(0), new Date(0)), "NotFound", "ENOENT");
  }),
  row("fs.upload", async ({ fs }) =>
    await withFolder(async (local) => {
      await mkdir(join(local, "tree/inner"), { recursive: true });
      await writeFile(join(local, "tree/one"), "1");
      await writeFile(join(local, "tree/inner/big"), pattern(700_000));
      await symlink("one", join(local, "tree/link"));
      const target = fresh();
      await fs.mkdir(target);
      await fs.upload(join(local, "tree"), target);
      assert.equal(await fs.readTextFile(`${target}/tree/one`), "1");
      same(await fs.readFile(`${target}/tree/inner/big`), pattern(700_000));
      assert.equal(await fs.readLink(`${target}/tree/link`), "one");
      await fs.upload(join(local, "tree/one"), `${target}/renamed`);
      assert.equal(await fs.readTextFile(`${target}/renamed`), "1");
    })),
  row("fs.download", async ({ fs }) =>
    await withFolder(async (local) => {
      const source = fresh();
      await fs.mkdir(`${source}/inner`, { recursive: true });
      await fs.writeFile(`${source}/inner/big`, pattern(700_000));
      await fs.writeTextFile(`${source}/one`, "1");
      await fs.symlink("one", `${source}/link`);
      await fs.download(source, local);
      const target = join(local, source.split("/").pop());
      same(await readFile(join(target, "inner/big")), pattern(700_000));
      assert.equal(await readFile(join(target, "one"), "utf8"), "1");
      assert.equal(await readlink(join(target, "link")), "one");
      await fs.download(`${source}/one`, join(local, "file"));
      assert.equal(await readFile(join(local, "file"), "utf8"), "1");
    })),
];
