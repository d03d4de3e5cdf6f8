//! The table of codes. A row needs a page `docs/errors/<code>.md`; a test compares the two.
//!
//! 1xxx joining and identity, 2xxx datasets and rights, 3xxx what peers send, 4xxx folders and files,
//! 5xxx configuration and the local daemon, 6xxx what is stored, 7xxx training jobs. A code is never given a second meaning.

use super::ErrorCode;

macro_rules! codes {
    ($($name:ident = $code:literal, $title:literal, $meaning:literal, $hint:literal;)*) => {
        $(#[doc = $meaning] pub const $name: ErrorCode =
            ErrorCode { code: $code, title: $title, meaning: $meaning, hint: $hint };)*
        /// All codes, in order.
        pub const CATALOGUE: &[&ErrorCode] = &[$(&$name),*];
    };
}

codes! {
    TOKEN_USED_UP = "HW-1001", "Token used up",
        "The join token has been used as many times as it allows.",
        "ask the core's operator for a new token: `core-node token create`";
    TOKEN_EXPIRED = "HW-1002", "Token expired",
        "The join token's lifetime is over.",
        "ask the core's operator for a new token: `core-node token create`";
    TOKEN_MISTYPED = "HW-1003", "Token mistyped",
        "The text is not a join token: its check digits don't fit, or it is cut off.",
        "copy the whole token again, without spaces or line breaks";
    TOKEN_OF_ANOTHER_CORE = "HW-1004", "Token of another core",
        "The core at that address is not the one that issued the token.",
        "check the address, and that the token comes from the core you want to join";
    TOKEN_NAME_NOT_ALLOWED = "HW-1005", "Name not allowed by the token",
        "The token does not allow a device of this name, or the name is taken.",
        "choose another name with `--name`, or ask for a token that allows this one";
    DEVICE_REVOKED = "HW-1010", "Device revoked",
        "The core's operator has revoked this device.",
        "ask the core's operator; to come back, the device must join with a new token";
    IDENTITY_CLONED = "HW-1011", "Identity used twice",
        "Two devices use one identity: the data folder was copied, or an old image was restored.",
        "let one of them leave (`edge-agent leave`) and join again with a new token";
    NOT_JOINED = "HW-1012", "Not joined",
        "This device has not joined a core.",
        "join one: `edge-agent join TOKEN --name NAME`";
    ALREADY_JOINED = "HW-1013", "Already joined",
        "This device belongs to a core already.",
        "leave first: `edge-agent leave`";
    IDENTITY_UNUSABLE = "HW-1014", "Identity unusable",
        "The identity in the data folder can't be read, or does not fit its key.",
        "restore the data folder's identity files from a backup, or join again with a new token";
    PEER_UNTRUSTED = "HW-1015", "Peer not trusted",
        "The other side's certificate is not from the authority that this side trusts.",
        "check the address; if the core was set up anew, devices must join again";
    UNKNOWN_DEVICE = "HW-1016", "Device unknown",
        "The core knows no device with this identity.",
        "join with a new token: `edge-agent join TOKEN --name NAME`";

    SECOND_WRITER = "HW-2001", "Second writer",
        "The dataset has one writer, and it is another one.",
        "publish under another name, or move the dataset: `core-node dataset hand-over`";
    NOT_FOUND = "HW-2002", "Not found",
        "It doesn't exist, or this peer may not read it; the two look the same on purpose.",
        "check the name, and ask the core's operator for the right to read it";
    NAME_INVALID = "HW-2003", "Name invalid",
        "The name can't be used.",
        "use letters, digits, `.`, `_`, `-` and `/` between parts; no part may be empty or begin with a dot";
    ALREADY_EXISTS = "HW-2004", "Already exists",
        "There is one of this name already.",
        "choose another name, or remove the other one first";
    LAST_COPY = "HW-2005", "Last copy",
        "This would delete bytes that a device has freed, and of which no other copy is known.",
        "if they should really go, say so with `--last-copy`";
    FORBIDDEN = "HW-2006", "Not allowed",
        "The role of this peer does not allow the request.",
        "ask the core's operator for the role that it needs";
    LOCAL_DATASET = "HW-2007", "Dataset is local",
        "The dataset is marked as local and never leaves this device.",
        "publish the folder as another dataset if it should leave the device";
    OUT_OF_SCOPE = "HW-2008", "Out of scope",
        "A version or a delta names bytes that this peer neither may read nor has uploaded.",
        "a retry with the full bytes is made by itself; if it stays, run `edge-agent verify` on the device";
    VERSION_CONFLICT = "HW-2009", "Version does not follow",
        "The version's parent is not the newest version of the dataset.",
        "the device catches up with the core and publishes again by itself; if it stays, two agents write one dataset";
    PATH_NOT_IN_DATASET = "HW-2010", "No such path in the dataset",
        "The dataset's newest version has no file of this path.",
        "list what it has: `core-node dataset files NAME`";
    COLLECTED = "HW-2011", "Held by a collection",
        "This would delete a version that a collection names.",
        "delete the collection first (`core-node collection delete`), or say `--from-collections`";

    PROTOCOL_TOO_NEW = "HW-3001", "Protocol too new",
        "The peer speaks a newer protocol than this release knows.",
        "upgrade this side; a core serves agents one release older and newer";
    PROTOCOL_TOO_OLD = "HW-3002", "Protocol too old",
        "The peer speaks a protocol that this release no longer serves.",
        "upgrade the other side";
    BAD_FRAME = "HW-3003", "Bad frame",
        "A message is garbage, cut off, or longer than allowed.",
        "if it stays, something on the way alters the data, or the peer is not a Headwater program";
    UNSAFE_MANIFEST = "HW-3004", "Unsafe manifest",
        "A version names paths or things that could do harm outside its folder, or contradicts itself.",
        "nothing was written; find out who published the version";
    HASH_MISMATCH = "HW-3005", "Hash mismatch",
        "The bytes received are not the ones that their id names.",
        "they were thrown away and are fetched again; if it stays, check the sender's disk: `verify`";
    CORE_UNREACHABLE = "HW-3006", "Core unreachable",
        "No address of the core answers.",
        "check the network, the core's address and its UDP port; the agent keeps trying";
    SESSION_ENDED = "HW-3007", "Session ended",
        "The connection was closed before the work was done.",
        "nothing is lost: the work goes on at the next connection";
    TOO_BUSY = "HW-3008", "Too busy",
        "The other side has reached a limit and takes no more at the moment.",
        "the work is tried again by itself";
    LINK_CLOSED = "HW-3009", "Link closed by its rules",
        "The schedule or the month's budget of this device lets nothing over the link now.",
        "wait until it opens, or change `[link]` in the configuration";

    FILE_CHANGED = "HW-4001", "File changed while sent",
        "A file changed or shrank between being scanned and being sent.",
        "it keeps its last published content and goes with the next version; close files before they are published";
    FILE_VANISHED = "HW-4002", "File vanished",
        "A file disappeared between being scanned and being sent.",
        "nothing to do if it was deleted on purpose; else publish the folder in `append` mode";
    FOLDER_UNREADABLE = "HW-4003", "Folder or file not readable",
        "There is no right to read it. What was published from there stays as it was.",
        "give the agent's user read rights on it, or exclude it in `.headwaterignore`";
    FOLDER_MISSING = "HW-4004", "Folder missing",
        "The folder doesn't exist, or is not a folder.",
        "check the path and that its disk is mounted; nothing is taken for deleted meanwhile";
    WATCH_LIMIT = "HW-4005", "Watch limit reached",
        "The system's limit of watched folders is reached; changes are found by rescans only.",
        "raise it: `sysctl fs.inotify.max_user_watches=524288`";
    DISK_FULL = "HW-4006", "Disk full",
        "There is no space left where something must be written.",
        "free some space; the work goes on by itself";
    WRITE_FAILED = "HW-4007", "Can't write",
        "A file or folder can't be written.",
        "check the rights and the disk (`dmesg`)";
    READ_FAILED = "HW-4008", "Can't read",
        "A file can't be read, though its rights allow it.",
        "check the disk (`dmesg`)";
    PATH_UNSUITABLE = "HW-4009", "Path unsuitable",
        "The path can't be used for this.",
        "give an existing folder that is not inside the data folder or another dataset's folder";
    FOLDER_SUSPECT = "HW-4010", "Folder suddenly without its files",
        "A folder that is mirrored holds none of its files any more, as if its disk were not mounted. They stay in the dataset.",
        "mount its disk again; if the files are to go, put any file into the folder, or use `edge-agent delete NAME PATH`";

    CONFIG_INVALID = "HW-5001", "Configuration invalid",
        "The configuration has mistakes.",
        "correct what is named, then try `config check`";
    PORT_IN_USE = "HW-5002", "Port in use",
        "Another program listens on the address.",
        "choose another port with `listen`, or stop the other program (`ss -lunp`)";
    DATA_FOLDER_IN_USE = "HW-5003", "Data folder in use",
        "Another process has the data folder open.",
        "stop the other process, or give this one a folder of its own with `--data`";
    DAEMON_NOT_RUNNING = "HW-5004", "Daemon not running",
        "No daemon answers on the data folder's local socket.",
        "start it with the `run` command, and check `--data`";
    USAGE = "HW-5005", "Wrong usage",
        "The command line can't be understood.",
        "see `--help`";
    NOT_INITIALISED = "HW-5006", "Data folder not set up",
        "The data folder doesn't exist or holds no data of this program.",
        "set it up first (`core-node init`, `edge-agent join`), and check `--data`";
    ADDRESS_UNUSABLE = "HW-5007", "Address unusable",
        "The address can't be listened on or resolved.",
        "give an address of this machine, as `0.0.0.0:4733`, or a name that resolves";
    INTERNAL = "HW-5008", "Internal mistake",
        "Something happened that should be impossible: a mistake in the program.",
        "please report it with the log around it; nothing acknowledged is lost";

    CATALOG_TOO_NEW = "HW-6001", "Catalog from a newer release",
        "A newer release has written the catalog, and this one does not understand it.",
        "upgrade this program; the catalog was not touched";
    CATALOG_DAMAGED = "HW-6002", "Catalog damaged",
        "The catalog's file can't be read.",
        "an agent rebuilds it by itself; on a core restore the catalog from its backup";
    PACK_DAMAGED = "HW-6003", "Pack damaged",
        "A chunk in a pack is not what it should be; it was set aside.",
        "run `core-node verify`; it fetches the chunk again from wherever it still exists";
    CHUNK_MISSING = "HW-6004", "Chunk missing",
        "Bytes that a version needs are nowhere to be found.",
        "run `core-node verify`; a device that still has them sends them again";
    CATALOG_FAILED = "HW-6005", "Catalog failed",
        "The catalog can't be read or written at the moment.",
        "check the disk's space and health";

    SAMPLE_OUT_OF_RANGE = "HW-7001", "No such sample",
        "The number is past the last sample of what was opened.",
        "samples are counted from 0 up to `len`, which is not one of them";
    SLOT_TOO_SMALL = "HW-7002", "Receive buffer too small",
        "The answer does not fit into the receive buffer that it was asked into.",
        "ask for fewer samples at once, read large files in ranges, or allow larger buffers";
    SAMPLE_UNREADABLE = "HW-7003", "Sample can't be read",
        "A chunk of the sample is damaged at the core and was not found elsewhere yet.",
        "other samples are not affected; ask the core's operator to run `core-node verify`, which fetches it again";
    DATA_CONNECTION_REFUSED = "HW-7004", "Data connection refused",
        "A connection to the data port did not prove that it belongs to a session.",
        "if it was a job, it is older or newer than the core; else somebody is trying the port";
    VERIFICATION_FAILED = "HW-7005", "Bytes arrived damaged again and again",
        "What came from the core was not what its hash says, also when it was fetched again.",
        "check the memory of both machines and the network between them; no damaged byte was returned";
    READING_SENSELESS = "HW-7006", "Reading makes no sense",
        "What a job declares that it will read can't be: its rank, fraction, batch size, filter or position.",
        "check rank and world size, and that the position belongs to the same selection";
    ANOTHER_VERSION = "HW-7007", "Ranks read different versions",
        "A rank of a job reads another version of a dataset than the job's other ranks.",
        "let all ranks name the same version, or give what is another job another id (`HEADWATER_JOB`)";
    SAMPLES_NOT_FOUND = "HW-7008", "Samples inside files not found",
        "A file of the version does not hold the samples that the dataset is said to hold.",
        "mend the file and publish again, or say otherwise what samples are: `core-node dataset samples`";

    MODEL_UNREADABLE = "HW-8001", "No model that can be read",
        "A file is no safetensors file, or not one whose tensors can be used.",
        "save the model as safetensors, with tensors of ordinary types, and publish that file";
    RUN_SENSELESS = "HW-8002", "Run makes no sense",
        "What a federated run was begun with, or is asked for, can't be.",
        "see `core-node federation start --help` for what can be said of a run";
    MODEL_DIFFERS = "HW-8003", "Model is not what its lineage says",
        "A model can't be made again from what its lineage names, or becomes another.",
        "publish no versions of a model by hand while runs make some; `core-node verify` finds what is damaged";
    TRAINING_FAILED = "HW-8004", "Training program failed",
        "The program that trains on a device did not do what a task asks of it.",
        "see `edge-agent training log` for what it said";
    UNTRUSTED_PROGRAM = "HW-8005", "Training program not trusted",
        "A run brings a training program by an author whom this device does not trust.",
        "put the author's key into `[training] trust` if its programs may run here";
    MODEL_EXISTS = "HW-8006", "Model exists",
        "What is published under a model's name is another model.",
        "publish it under another name, or delete the one that exists: `core-node dataset delete`";
}
