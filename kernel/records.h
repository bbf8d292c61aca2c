/* The records that Python prepares and the kernel works on. */

#define KERNEL_VERSION 5 /* another number when any of them changes */

struct way { /* a destination */
    void *name;
    uint32_t name_length;
    uint32_t whole; /* takes no messages that are to be cut into datagrams */
    uint64_t turn;  /* in which it was last sent to, */
    uint32_t first; /* and then the slot that leaves first, */
    uint32_t last;  /* and the one that was written last */
};

struct openssl { /* its functions */
    void *init; /* EVP_EncryptInit_ex, */
    void *update; /* EVP_EncryptUpdate, */
    void *final; /* EVP_EncryptFinal_ex, */
    void *parameters; /* EVP_CIPHER_CTX_get_params */
};

struct stream { /* what one transport sends with one SSRC */
    uint64_t index; /* the highest, of 48 bits (RFC 3711, section 3.3.1) */
    uint32_t ssrc;
    uint32_t met; /* 0 for a place that is free */
};

struct gcm { /* AES-GCM for what one transport sends */
    const struct openssl *openssl;
    void *context; /* EVP_CIPHER_CTX, which has the key */
    struct stream *streams; /* a table that is at most half full, */
    uint32_t mask; /* and its size less one */
    uint32_t window; /* packets that may be sent again */
    uint8_t salt[12];
};

struct sink { /* one subscriber's transport; while it is not connected, neither of the first two is there */
    struct gcm *gcm; /* what protects RTP, */
    void *session; /* or libsrtp's session, which does */
    struct way *way;
    uint64_t refused; /* packets that could not be protected */
};

struct queue { /* the slots of the egress arena, in use from the first on */
    char *arena;
    struct iovec *iovecs;
    struct way **ways;
    uint8_t *kept;     /* not to be dropped lightly */
    uint32_t *lanes;   /* which lane wrote a slot, in the call that did */
    uint64_t *sources;   /* from here to `turn`, for `kernel_arrange`: whose order a slot is part of, */
    uint32_t *following; /* the next slot to the same address, */
    uint8_t *later;      /* whether an earlier slot goes there, */
    uint64_t turn;       /* and how often it was called */
    uint32_t slot_size;
    uint32_t slots;
    uint32_t queued;
    uint32_t used;       /* bytes of the arena: packets stand side by side, as long as only the kernel writes, */
    uint32_t enough;     /* and no lane is begun with this many: what is near is cheaper to send */
};

struct log { /* the packets of one transport by their transport-wide sequence numbers */
    double *at;
    uint32_t *sizes;
    uint32_t *next;
    uint32_t mask;
};

struct estimate { /* the way to one subscriber, as its transport-wide feedback tells */
    struct estimates {
        double at; /* when feedback came last */
        double loss;
        double queueing;
        double lowest; /* seconds on the way; not a number at first */
        double octets; /* of all shares */
    } *numbers;
    struct places { /* in `shares` */
        uint32_t first;
        uint32_t count;
    } *places;
    struct share { /* bytes that arrived together */
        double at;
        double octets;
    } *shares;
    uint32_t kept; /* shares, at most */
};

struct feedback_lane { /* where the feedback of one subscriber goes */
    void *session; /* of libsrtp; null while not connected */
    struct log *log; /* null while nothing was sent */
    struct estimate *estimate;
};

struct lane { /* the straight way from one source to one subscriber */
    uint32_t armed; /* 0: Python has to look at each packet; 1: straight; 2: nothing passes */
    uint32_t source;
    int64_t next_index;
    int64_t sequence; /* from here to `frame`: what is added to the numbers of a packet */
    uint32_t timestamp;
    int32_t picture;
    int32_t tl0;
    int32_t key;
    int32_t frame;
    uint32_t ssrc;
    uint8_t payload_type;
    uint8_t renumbers;
    int8_t gate; /* the highest temporal layer that passes without a look */
    uint8_t went; /* something was sent since Python looked last */
    uint32_t packets;
    struct sink *sink;
    struct log *log;
    double arrival; /* of the packet sent last */
    uint64_t octets;
};

struct pictures { /* the numbers in VP8's descriptor (RFC 7741, section 4.2), and where they stand in the payload */
    uint16_t number; /* the picture id, of so many bits; 0 bits without one */
    uint8_t picture_at;
    uint8_t picture_bits;
    uint8_t tl0_at; /* 0 without */
    uint8_t tl0;
    uint8_t key_at; /* 0 without */
    uint8_t key;
};

struct part { /* what all subscribers of one shape get of one packet */
    int64_t index;
    uint32_t tail; /* where in the tails it begins */
    uint32_t tail_length;
    uint32_t timestamp;
    uint32_t octets;
    uint16_t payload_at;
    uint16_t frame_at;
    struct pictures vp8;
    uint8_t first;
    uint8_t marker;
    uint8_t temporal;
    uint8_t vital;
    uint16_t transport_at; /* where the transport-wide sequence number goes; 0 without one */
    double arrival;
};

struct burst { /* packets of one source, in the order in which they are sent */
    struct part *parts;
    char *tails;
    double now;
    double stalled; /* seconds without a packet, after which a lane looks elsewhere */
    uint32_t source;
    uint32_t count;
    uint8_t keyframe;
    uint8_t video;
};

struct stop { /* a lane and a part of a burst */
    uint32_t lane;
    uint32_t part;
};

struct packet { /* one that was received, as `kernel_receive` has read it */
    uint32_t at;         /* where in the store it begins */
    uint16_t elements;   /* where its header extensions begin, in the one-byte form, */
    uint16_t payload_at; /* and end: the payload follows */
    uint16_t length;     /* of all */
    struct pictures vp8;
    uint8_t temporal;
    uint8_t marker;
};

struct intake { /* where received packets are read: what is the next one of a stream, and what was found */
    void *unprotect; /* libsrtp's function */
    char *store;
    struct packet *packets;
    uint32_t room;  /* bytes of the store, */
    uint32_t used;  /* and those in use */
    uint32_t slots; /* packets that there is room for, */
    uint32_t count; /* and those that were read since it was emptied */
    uint32_t ssrc;
    uint16_t sequence;
    uint8_t payload_type;
    uint8_t vp8;          /* whether the payload is that */
    uint8_t transport_id; /* the extension with the transport-wide sequence number; 0 for none */
    uint8_t level_id;     /* the one with the loudness of a sound; 0 for none */
    uint8_t level;        /* from here on, of what was read: its first byte, */
    uint8_t levelled;     /* and whether there was one */
    uint32_t timestamp;   /* of all packets of a run */
    int32_t transport;    /* the transport-wide number of the first one; -1 without */
    uint32_t overhead;    /* bytes that the protection of each took */
    uint32_t left;        /* the length of one behind them that was decrypted, and is not straight; 0 without */
    uint32_t refused;     /* 1 if one behind them was not authentic, or a replay */
};

struct form { /* what subscribers of one shape get of header extensions */
    uint8_t begin[16]; /* elements that each packet has */
    uint8_t begins;    /* bytes of them */
    uint8_t transport; /* whether the first one is the transport-wide number, */
    uint8_t send_time; /* or the time at which it is sent, which is then written */
    uint8_t descriptor; /* the publisher's number of the dependency descriptor */
    uint8_t numbers[15]; /* the subscribers' number for each of the publisher's that goes on; 0 for the others */
};
