//! A power cut loses nothing acknowledged: an ext4 that is shut down without its journal, under
//! load. Needs root and loop devices; where they are not there, the output says so.

use std::path::Path;
use std::process::Command;

use crate::load::Load;
use crate::server::{Random, Server, compile, rounds, token};

/// `EXT4_IOC_SHUTDOWN` with NOLOGFLUSH: what is only in memory is gone.
const CUT: &str = r"
#include <fcntl.h>
#include <sys/ioctl.h>
int main(int count, char **arguments) {
    unsigned flag = 2;
    int fd = count == 2 ? open(arguments[1], O_RDONLY) : -1;
    return fd < 0 || ioctl(fd, 0x8004587d, &flag) < 0;
}
";

#[test]
fn what_was_acknowledged_survives_a_power_cut() {
    let folder = tempfile::tempdir().unwrap();
    let (image, disk) = (folder.path().join("image"), folder.path().join("disk"));
    let cut = compile(folder.path(), CUT, &[]);
    let mut random = Random::seeded("power");
    std::fs::create_dir(&disk).unwrap();
    std::fs::File::create(&image)
        .unwrap()
        .set_len(512 << 20)
        .unwrap();
    if let Err(why) = run("mkfs.ext4", &["-q".as_ref(), &image]).and_then(|()| mount(&image, &disk))
    {
        println!("power: skipped, no ext4 image can be mounted: {why}");
        return;
    }
    let _mounted = Mounted(&disk);
    let data = disk.join("data");
    let rounds = rounds(2);
    let mut server = Server::start(&data, &[]);
    let token = token(&data);
    let mut load = Load::start(&server, &token);
    run("sync", &["-f".as_ref(), &disk]).unwrap();
    for _ in 0..rounds {
        load.until_acknowledged(100 + random.below(400));
        // With the power goes the process too. One that runs on may see an fsync succeed that the shut down file
        // system has only given up, and acknowledge it.
        server.freeze();
        run(cut.to_str().unwrap(), &[&disk]).unwrap();
        server.kill();
        load.pause();
        run("umount", &[&disk]).unwrap();
        mount(&image, &disk).unwrap();
        server = Server::start(&data, &[]);
        load.resume(&server);
    }
    load.until_acknowledged(100);
    load.stop();
    load.judge("power", rounds, &server, &token);
}

/// Unmounts, also when the test fails.
struct Mounted<'d>(&'d Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // A failed round may have left it unmounted.
        let _ = run("umount", &["-l".as_ref(), self.0]);
    }
}

fn mount(image: &Path, disk: &Path) -> Result<(), String> {
    run("mount", &["-o".as_ref(), "loop".as_ref(), image, disk])
}

fn run(program: &str, arguments: &[&Path]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|e| e.to_string())?;
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{program}: {why}"))
    }
}
